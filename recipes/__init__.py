"""One short TOML a system; read through importlib.resources by toolkit.recipe."""
