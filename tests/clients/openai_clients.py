"""The official openai package, which here refuses replies that do not have the documented form."""

import functools
import os
import unittest

import openai
from openai import OpenAI
from pydantic import BaseModel

ADDRESS = os.environ["YUSHAN_ADDRESS"]
MODEL = "scripted/tiny"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}


class Answer(BaseModel):
    """A form that answers must have."""

    city: str
    degrees: int


def said(text):
    return [{"role": "user", "content": text}]


class OpenAIClient(unittest.TestCase):
    def setUp(self):
        self.client = OpenAI(
            base_url=f"{ADDRESS}/v1",
            api_key="key-ann",
            max_retries=0,
            _strict_response_validation=True,
        )
        self.addCleanup(self.client.close)

    def chat(self, text, **options):
        return self.client.chat.completions.create(model=MODEL, messages=said(text), **options)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)
        with self.assertRaises(openai.NotFoundError) as raised:
            self.client.models.retrieve("none")
        self.assertEqual(raised.exception.code, "model_not_found")

    def test_chat(self):
        reply = self.chat("hello", n=2, temperature=0, seed=1, logprobs=True, top_logprobs=2)
        self.assertEqual([c.message.content for c in reply.choices], ["You said: hello"] * 2)
        self.assertEqual(reply.usage.prompt_tokens_details.cached_tokens, 5)
        self.assertEqual(len(reply.choices[0].logprobs.content[0].top_logprobs), 2)

    def test_chat_stream(self):
        stream = self.chat("hello", stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, "You said: hello")
        self.assertEqual(chunks[-2].choices[0].finish_reason, "stop")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], 3))

    def test_chat_stream_helper(self):
        with self.client.chat.completions.stream(
            model=MODEL, messages=said("the weather"), tools=[TOOL]
        ) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_completion()
        self.assertIn("tool_calls.function.arguments.done", kinds)
        call = final.choices[0].message.tool_calls[0]
        self.assertEqual(call.function.parsed_arguments, {"city": "text"})

    def test_tools_and_their_results(self):
        reply = self.chat("the weather", tools=[TOOL], tool_choice="required")
        message = reply.choices[0].message
        self.assertEqual(reply.choices[0].finish_reason, "tool_calls")
        history = said("the weather") + [
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"},
        ]
        reply = self.client.chat.completions.create(model=MODEL, messages=history, tools=[TOOL])
        self.assertEqual(reply.choices[0].message.content, "You said: rain")

    def test_structured_output(self):
        reply = self.client.chat.completions.parse(
            model=MODEL, messages=said("where?"), response_format=Answer
        )
        self.assertEqual(reply.choices[0].message.parsed, Answer(city="text", degrees=7))
        reply = self.chat("a", response_format={"type": "json_object"})
        self.assertEqual(reply.choices[0].message.content, '{"answer":"a"}')

    def test_completions(self):
        for prompt in ["ab", [97, 98]]:
            reply = self.client.completions.create(
                model=MODEL, prompt=prompt, echo=True, max_tokens=2
            )
            self.assertEqual(reply.choices[0].text, "ab and ")
        reply = self.client.completions.create(model=MODEL, prompt=["a", "b"], n=2, logprobs=1)
        self.assertEqual([c.index for c in reply.choices], [0, 1, 2, 3])
        self.assertEqual(reply.choices[0].logprobs.token_logprobs[0], -0.5)
        # The type of the package has no `null` for the reason of a chunk that is not the last, which
        # OpenAI's own server sends.
        lenient = OpenAI(base_url=f"{ADDRESS}/v1", api_key="key-ann", max_retries=0)
        self.addCleanup(lenient.close)
        stream = lenient.completions.create(model=MODEL, prompt="a", stream=True)
        text = "".join(chunk.choices[0].text for chunk in stream)
        self.assertEqual(text, " and so on and on")

    def test_suffix(self):
        create = self.client.completions.create
        reply = create(model=MODEL, prompt="one ", suffix=" three")
        self.assertEqual(reply.choices[0].text, "You said: one … three")
        for field, options in [
            ("suffix", {"prompt": "a", "suffix": "no gap"}),
            ("suffix", {"prompt": [97], "suffix": "b"}),
            ("echo", {"prompt": "a", "suffix": "b", "echo": True}),
        ]:
            with self.assertRaises(openai.BadRequestError) as raised:
                create(model=MODEL, **options)
            self.assertEqual(raised.exception.param, field)

    def test_embeddings(self):
        create = self.client.embeddings.create
        # Without a format the package asks for base64 and makes it numbers again, but its strict mode
        # looks at the reply before it has done so.
        lenient = OpenAI(base_url=f"{ADDRESS}/v1", api_key="key-ann", max_retries=0)
        self.addCleanup(lenient.close)
        for ask in [lenient.embeddings.create, functools.partial(create, encoding_format="float")]:
            reply = ask(model=MODEL, input=["aa", "b"])
            vectors = [one.embedding for one in reply.data]
            self.assertEqual(vectors, [[0, 1, 0, 0], [0, 0, 1, 0]])
            self.assertEqual(reply.usage.total_tokens, 3)
        for tokens in [[97], [[97], [98, 98]]]:
            reply = lenient.embeddings.create(model=MODEL, input=tokens)
            self.assertEqual(reply.data[0].embedding, [0, 1, 0, 0])
        with self.assertRaises(openai.BadRequestError) as raised:
            create(model=MODEL, input="a", dimensions=2)
        self.assertEqual(raised.exception.param, "dimensions")

    def test_errors(self):
        for kind, call in [
            (openai.BadRequestError, lambda: self.chat("a", temperature=-1)),
            (openai.BadRequestError, lambda: self.chat("x" * 5000)),
            (openai.RateLimitError, lambda: self.chat("be busy")),
            (openai.InternalServerError, lambda: self.chat("fail")),
            (openai.BadRequestError, lambda: self.client.embeddings.create(model=MODEL, input="")),
            (openai.APIError, lambda: list(self.chat("fail", stream=True))),
        ]:
            with self.assertRaises(kind):
                call()
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat("x" * 5000)
        self.assertEqual(raised.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.RateLimitError) as raised:
            self.chat("be busy")
        self.assertEqual(raised.exception.response.headers["retry-after"], "2")
        with self.assertRaises(openai.BadRequestError) as raised:
            self.chat("a", top_p=3)
        self.assertEqual(raised.exception.param, "top_p")

    def test_responses(self):
        create = self.client.responses.create
        first = create(model=MODEL, input="one", instructions="be kind", metadata={"a": "b"})
        self.assertEqual((first.output_text, first.status), ("You said: one", "completed"))
        second = create(model=MODEL, input=said("two"), previous_response_id=first.id)
        self.assertEqual(second.output_text, "You said: two")
        self.assertEqual(self.client.responses.retrieve(second.id), second)
        items = list(self.client.responses.input_items.list(second.id))
        self.assertEqual(items[0].content[0].text, "two")
        self.client.responses.delete(first.id)
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve(first.id)

    def test_responses_stream(self):
        with self.client.responses.stream(model=MODEL, input="hello") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        self.assertEqual(kinds[:2], ["response.created", "response.in_progress"])
        self.assertEqual(kinds[-1], "response.completed")
        self.assertEqual(final.output_text, "You said: hello")

    def test_responses_tools_and_forms(self):
        tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
        reply = self.client.responses.create(model=MODEL, input="the weather", tools=[tool])
        call = reply.output[0]
        self.assertEqual((call.type, call.arguments), ("function_call", '{"city":"text"}'))
        history = said("the weather") + [
            call.model_dump(exclude_none=True),
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        ]
        reply = self.client.responses.create(model=MODEL, input=history, tools=[tool])
        self.assertEqual(reply.output_text, "You said: rain")
        reply = self.client.responses.parse(model=MODEL, input="where?", text_format=Answer)
        self.assertEqual(reply.output_parsed, Answer(city="text", degrees=7))

    def test_background(self):
        reply = self.client.responses.create(model=MODEL, input="go on forever", background=True)
        self.assertEqual(reply.status, "queued")
        self.assertEqual(self.client.responses.cancel(reply.id).status, "cancelled")
        self.assertEqual(self.client.responses.retrieve(reply.id).status, "cancelled")

    def test_files(self):
        file = self.client.files.create(file=("a.txt", b"hello"), purpose="user_data")
        self.assertEqual((file.bytes, file.filename), (5, "a.txt"))
        self.assertEqual(self.client.files.retrieve(file.id), file)
        self.assertEqual(self.client.files.content(file.id).read(), b"hello")
        self.assertIn(file, list(self.client.files.list()))
        self.assertTrue(self.client.files.delete(file.id).deleted)


if __name__ == "__main__":
    unittest.main()
