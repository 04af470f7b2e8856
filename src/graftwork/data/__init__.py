"""Files become checked, split rows."""
