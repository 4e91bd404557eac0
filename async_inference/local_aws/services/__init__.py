"""AWS's services: the operations that an asynchronous endpoint needs, and their rules."""
