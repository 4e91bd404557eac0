"""Settings, rehearsal, calibration, client, embedded AWS and commands for the deployed endpoint."""
