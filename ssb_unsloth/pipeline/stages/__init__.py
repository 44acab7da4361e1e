"""One module a stage, each with an object STAGE that says what it reads, what determines it, and what it does."""
