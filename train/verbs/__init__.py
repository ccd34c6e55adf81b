"""The commands, one per file, each with `main(arguments) -> exit status`. Only the command line imports them."""
