"""What several plugs need: HTTP, trees of small files, the bundled tables."""
