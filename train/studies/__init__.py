"""Questions with an answer: several runs, compared. One study per file."""
