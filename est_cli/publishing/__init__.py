"""What est-push does: a finished run's model, with a card made anew, becomes a repository on the Hugging Face hub."""
