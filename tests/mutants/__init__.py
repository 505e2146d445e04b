"""Small patches that break the product on purpose; each must make the test that it names fail."""
