"""Publishing to the Hugging Face Hub: models from run folders, dialogues as datasets. See README.md here."""
