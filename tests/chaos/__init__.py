"""The service under kill -9: real processes, a random killer, and an oracle outside of them all.

python -m tests.chaos --kills 100 --seed 1 --db sqlite

trainer     a stand-in for Axolotl that keeps the oracle's log
oracle      what the logs say happened, whatever the service says
parts       Redis, API, workers and the database as processes that can be killed
processes   guards and trainers, found in /proc
faults      one fault at a time, at random
clients     people who post, cancel, pause and resume
verdict     oracle against database and disk
harness     all of it, from an empty folder to the verdict
"""
