"""An app behind one proxy that sets ``X-Forwarded-`` headers."""

from flask import Flask
from flask import jsonify
from flask import request
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config["TRUSTED_HOSTS"] = ["shop.example"]
app.config.from_prefixed_env()
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)
durable = FlaskDurable(app)


@app.get("/slow")
@durable.endpoint
def slow():
    step.sleep("a-little", 1)
    return jsonify(url=request.url, client=request.remote_addr)
