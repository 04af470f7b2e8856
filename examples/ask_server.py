"""Ask a running server with three clients: Graftwork's own, Hugging Face's and OpenAI's.

python examples/ask_server.py http://127.0.0.1:8080
"""

from __future__ import annotations

import sys

from huggingface_hub import InferenceClient
from openai import OpenAI

from graftwork import Client


def main(url: str) -> None:
    """Ask for classes and for vectors."""
    with Client(url) as client:
        answers = client.classify("acme/news:production", ["The striker scored twice", "Shares fell"], top_k=1)
        for answer in answers:
            print(f"graftwork.Client: {answer.label} {answer.score:.3f} by {answers.model} {answers.digest[:12]}")

    hugging_face = InferenceClient(model=f"{url}/predict/globex/mood")
    for element in hugging_face.text_classification("what a lovely day", top_k=2):
        print(f"huggingface_hub: {element.label} {element.score:.3f}")

    openai = OpenAI(base_url=f"{url}/v1", api_key="none is needed here")
    found = openai.embeddings.create(model="minilm", input=["a lovely day", "a wonderful day", "a tax return"])
    lovely, wonderful, tax = (item.embedding for item in found.data)
    near, far = (sum(a * b for a, b in zip(lovely, other, strict=True)) for other in (wonderful, tax))
    print(f"openai: {len(lovely)} numbers a text; similar texts {near:.3f}, others {far:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
