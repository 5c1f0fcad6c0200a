"""The command `objecthood`: one file for each subcommand, `main` for help, errors and exit codes."""
