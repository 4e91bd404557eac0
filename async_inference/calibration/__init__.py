"""Measures on a live endpoint which readings of AWS hold, so that rehearsals can use them.

`reading` reads an endpoint's records from AWS, and `estimators` evaluate them. `file` keeps the
findings in `calibration.<stack>.yaml`; `file.apply` uses them in a rehearsal's assumptions.
"""
