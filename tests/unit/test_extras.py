import pytest

from muomni_search.errors import NotFound
from muomni_search.extras import load_extra


def test_a_package_that_is_installed_is_imported():
    assert load_extra("json.decoder", extra="explore").JSONDecodeError


def test_a_package_that_is_not_installed_names_the_extra():
    with pytest.raises(NotFound, match=r"'no_such_package'.*muomni_search\[explore\]"):
        load_extra("no_such_package.part", extra="explore")


def test_a_package_that_lacks_another_one_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "lame_package.py").write_text("import no_such_leg\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_leg"):
        load_extra("lame_package", extra="explore")
