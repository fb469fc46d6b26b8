"""A client manager: owns the clients that checked in with it, and offers them rounds."""
