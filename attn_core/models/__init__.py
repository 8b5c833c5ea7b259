"""Small whole models that the chapters train; import them from the module that holds them."""
