"""Our models beside what one would write from the paper without thought for speed, in one process."""
