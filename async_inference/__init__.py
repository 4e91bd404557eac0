"""What people run beside the deployment: settings, rehearsal, the local AWS, the client."""
