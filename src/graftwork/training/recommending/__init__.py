"""Which base, which strategy and which settings: judged from the rows, by rules, by evidence and by short trials."""
