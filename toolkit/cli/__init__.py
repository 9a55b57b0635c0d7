"""The command line: options and messages; one file a subcommand, heavy imports inside functions."""
