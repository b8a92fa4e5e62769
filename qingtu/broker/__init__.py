"""What a mosquitto of the city's own needs: accounts, access control, limits, certificates. See docs/broker.md.

Nothing here talks to a broker. `acl.py` says who may do what, `passwords.py` keeps hashed passwords, `config.py`
writes mosquitto.conf, `certificates.py` makes certificates for a trial, `folder.py` brings a folder in line with all
that, `here.py` asks whether a mosquitto on this machine could use it. ``qingtu broker-config`` is the way in.
"""
