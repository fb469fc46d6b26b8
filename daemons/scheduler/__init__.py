"""The scheduler: makes plans from jobs and supply; it may be restarted at any time."""
