"""An async view with async steps: the verbs are called, not awaited."""

import asyncio

from flask import Flask
from flask import jsonify
from flask import request

from flask_durable import FlaskDurable
from flask_durable import step

app = Flask(__name__)
app.config["SECRET_KEY"] = "dev"
app.config.from_prefixed_env()
durable = FlaskDurable(app)


async def translate(text):
    await asyncio.sleep(0.1)
    return text.upper()


@app.post("/translations")
@durable.endpoint
async def make_translation():
    text = step.run("translate", translate, request.json["text"])
    return jsonify(text=text)
