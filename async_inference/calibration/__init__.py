"""What a live endpoint shows of the readings that AWS leaves open, and rehearsals that use it.

`reading` takes an endpoint's records from AWS, `estimators` judge them, `file` keeps what they
found in `calibration.<stack>.yaml`, from which `file.apply` changes a rehearsal's assumptions.
"""
