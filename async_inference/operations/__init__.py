"""Is what runs what was asked for (verify), and will what is asked for run (preflight)?"""
