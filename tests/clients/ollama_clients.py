"""The ollama package."""

import os
import unittest

import ollama

ADDRESS = os.environ["YUSHAN_ADDRESS"]
MODEL = "scripted/tiny"


def weather(city: str) -> str:
    """Tells the weather.

    Args:
      city: Where.
    """
    return f"rain in {city}"


def said(text):
    return [{"role": "user", "content": text}]


class OllamaClient(unittest.TestCase):
    def setUp(self):
        self.client = ollama.Client(host=ADDRESS)

    def test_models(self):
        self.assertEqual([m.model for m in self.client.list().models], [MODEL])
        self.client.generate(MODEL, "", keep_alive="5m")
        self.assertEqual(self.client.ps().models[0].model, MODEL)
        shown = self.client.show(MODEL)
        self.assertIn("completion", shown.capabilities)
        self.assertEqual(shown.details.quantization_level, "F32")

    def test_keep_alive(self):
        reply = self.client.generate(MODEL, "", keep_alive="10m")
        self.assertEqual(reply.done_reason, "load")
        running = self.client.ps().models[0]
        self.assertEqual(running.size, 2048)
        self.assertIsNotNone(running.expires_at)
        self.assertEqual(self.client.generate(MODEL, "", keep_alive=0).done_reason, "unload")
        self.assertEqual(self.client.ps().models, [])
        self.assertEqual(self.client.chat(MODEL, said("a"), keep_alive=-1).message.content, "You said: a")
        self.assertEqual(self.client.ps().models[0].expires_at.year, 9999)

    def test_chat(self):
        reply = self.client.chat(MODEL, said("hello"), options={"temperature": 0, "num_predict": 9})
        self.assertEqual(reply.message.content, "You said: hello")
        self.assertEqual((reply.done_reason, reply.eval_count), ("stop", 3))
        self.assertGreater(reply.total_duration, 0)
        parts = list(self.client.chat(MODEL, said("hello"), stream=True))
        self.assertEqual("".join(part.message.content for part in parts), "You said: hello")
        self.assertTrue(parts[-1].done)

    def test_tools(self):
        reply = self.client.chat(MODEL, said("the weather"), tools=[weather])
        call = reply.message.tool_calls[0].function
        self.assertEqual((call.name, call.arguments), ("weather", {"city": "text"}))
        history = said("the weather") + [
            reply.message,
            {"role": "tool", "tool_name": "weather", "content": weather(**call.arguments)},
        ]
        reply = self.client.chat(MODEL, history, tools=[weather])
        self.assertEqual(reply.message.content, "You said: rain in text")

    def test_generate_and_format(self):
        reply = self.client.generate(MODEL, "hello", system="be kind")
        self.assertEqual(reply.response, "You said: hello")
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
        self.assertEqual(self.client.generate(MODEL, "a", format=schema).response, '{"n":7}')
        raw = self.client.generate(MODEL, "a", raw=True, stream=True)
        self.assertEqual("".join(part.response for part in raw), " and so on and on")

    def test_suffix(self):
        reply = self.client.generate(MODEL, "one ", suffix=" three")
        self.assertEqual(reply.response, "You said: one … three")
        with self.assertRaisesRegex(ollama.ResponseError, "^suffix: "):
            self.client.generate(MODEL, "one ", suffix="no gap")

    def test_embeddings(self):
        reply = self.client.embed(MODEL, ["aa", "b"])
        self.assertEqual(reply.embeddings, [[0, 1, 0, 0], [0, 0, 1, 0]])
        self.assertEqual(reply.prompt_eval_count, 3)
        self.assertEqual(self.client.embeddings(MODEL, "a").embedding, [0, 1, 0, 0])

    def test_pull(self):
        steps = [step.status for step in self.client.pull(MODEL, stream=True)]
        self.assertEqual(steps[-1], "success")
        self.assertEqual(self.client.pull(MODEL).status, "success")

    def test_errors(self):
        for status, call in [
            (404, lambda: self.client.chat("none", said("a"))),
            (400, lambda: self.client.chat(MODEL, said("a"), options={"temperature": -1})),
            (429, lambda: self.client.chat(MODEL, said("be busy"))),
            (400, lambda: self.client.embed(MODEL, "")),
            (404, lambda: self.client.pull("none")),
            (409, lambda: self.client.delete(MODEL)),
        ]:
            with self.assertRaises(ollama.ResponseError) as raised:
                call()
            self.assertEqual(raised.exception.status_code, status)
        with self.assertRaises(ollama.ResponseError):
            list(self.client.chat(MODEL, said("fail"), stream=True))


if __name__ == "__main__":
    unittest.main()
