"""What a run, or several, did, as one HTML file that needs nothing else: its parts, its drawings and its style."""
