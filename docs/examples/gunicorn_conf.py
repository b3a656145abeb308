"""A gunicorn configuration of your own that takes over the extension's hooks."""

from flask_durable.gunicorn import post_worker_init as post_worker_init
from flask_durable.gunicorn import worker_exit as worker_exit

bind = "127.0.0.1:8000"
worker_class = "gthread"
workers = 2
threads = 8
