"""What an adapter is trusted with: its stage, and what moves it there."""
