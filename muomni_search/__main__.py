"""`python -m muomni_search` is `muomni`."""

from muomni_search.cli.main import main

if __name__ == "__main__":
    main()
