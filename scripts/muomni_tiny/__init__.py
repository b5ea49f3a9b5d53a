"""What `muomni-tiny` learns from: tables made of named packages."""
