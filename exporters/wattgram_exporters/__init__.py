"""The screens of wattgram: a snapshot goes in, text for some reader comes out."""
