"""Keys and tokens: from what a caller presents to a principal."""
