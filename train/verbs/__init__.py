"""What the front door offers: one verb a file, each with `main(arguments) -> exit status`. Machinery never imports a verb."""
