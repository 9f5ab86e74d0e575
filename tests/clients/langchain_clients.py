"""LangChain's ChatOpenAI and OpenAIEmbeddings: tools, a JSON schema, a stream, the responses interface."""

import os
import unittest

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

ADDRESS = os.environ["YUSHAN_ADDRESS"]


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return f"rain in {city}"


class Answer(BaseModel):
    """A form that answers must have."""

    city: str
    degrees: int


class LangChain(unittest.TestCase):
    def model(self, **options):
        return ChatOpenAI(
            model="scripted/tiny",
            base_url=f"{ADDRESS}/v1",
            api_key="key-ann",
            max_retries=0,
            stream_usage=True,
            **options,
        )

    def test_invoke_and_stream(self):
        for responses in [False, True]:
            model = self.model(use_responses_api=responses)
            reply = model.invoke("hello")
            self.assertEqual(reply.text, "You said: hello")
            self.assertEqual(reply.usage_metadata["output_tokens"], 3)
            parts = list(model.stream("hello"))
            self.assertEqual("".join(part.text for part in parts), "You said: hello")
            used = [part.usage_metadata["output_tokens"] for part in parts if part.usage_metadata]
            self.assertEqual(sum(used), 3)

    def test_tools(self):
        for responses in [False, True]:
            model = self.model(use_responses_api=responses).bind_tools([weather])
            asked = HumanMessage("the weather")
            reply = model.invoke([asked])
            call = reply.tool_calls[0]
            self.assertEqual((call["name"], call["args"]), ("weather", {"city": "text"}))
            result = weather.invoke(call)
            self.assertIsInstance(result, ToolMessage)
            reply = model.invoke([asked, reply, result])
            self.assertEqual(reply.text, "You said: rain in text")

    def test_structured_output(self):
        for method in ["json_schema", "function_calling"]:
            model = self.model().with_structured_output(Answer, method=method)
            self.assertEqual(model.invoke("where?"), Answer(city="text", degrees=7))


    def test_embeddings(self):
        # Texts as they are: cutting them needs the tokenizer of an OpenAI model.
        model = OpenAIEmbeddings(
            model="scripted/tiny",
            base_url=f"{ADDRESS}/v1",
            api_key="key-ann",
            check_embedding_ctx_length=False,
        )
        self.assertEqual(model.embed_documents(["aa", "b"]), [[0, 1, 0, 0], [0, 0, 1, 0]])
        self.assertEqual(model.embed_query("a"), [0, 1, 0, 0])


if __name__ == "__main__":
    unittest.main()
