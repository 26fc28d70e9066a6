"""Safety: noticing a crisis in a seeker's message, and the human help to point to."""
