"""The official Python clients and litellm against a keeve server with the demo model."""

import json
import os

import anthropic
import ollama
import openai

# Without this litellm looks for a price list on the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm  # noqa: E402

URL, KEY = os.environ["KEEVE_URL"], os.environ["KEEVE_KEY"]
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Ulm", "Bonn"]}},
    "required": ["city"],
    "additionalProperties": False,
}
client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY)


def chat():
    answer = client.chat.completions.create(model="keeve-demo", messages=FRANCE, temperature=0, max_tokens=40)
    assert "Paris" in answer.choices[0].message.content, answer
    pieces = client.chat.completions.create(
        model="gpt-test", messages=FRANCE, temperature=0, max_tokens=40, stream=True,
        stream_options={"include_usage": True})
    text, usage = "", None
    for piece in pieces:
        text += "".join(choice.delta.content or "" for choice in piece.choices)
        usage = piece.usage or usage
    assert text == answer.choices[0].message.content
    assert usage.completion_tokens == answer.usage.completion_tokens


def logprobs():
    answer = client.chat.completions.create(
        model="keeve-demo", messages=FRANCE, temperature=0, max_tokens=5, logprobs=True, top_logprobs=2)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 5 and all(len(token.top_logprobs) == 2 for token in tokens)


def schema():
    answer = client.chat.completions.create(
        model="keeve-demo", messages=FRANCE, seed=1, max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}})
    assert json.loads(answer.choices[0].message.content)["city"] in ("Ulm", "Bonn")


def tools():
    tool = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
    answer = client.chat.completions.create(
        model="keeve-demo", messages=FRANCE, temperature=0, max_tokens=100, tools=[tool],
        tool_choice="required", parallel_tool_calls=False)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Ulm", "Bonn")
    with client.chat.completions.stream(
            model="keeve-demo", messages=FRANCE, temperature=0, max_tokens=100, tools=[tool],
            tool_choice="required", parallel_tool_calls=False) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments


def embeddings():
    answer = client.embeddings.create(model="keeve-demo", input=["a cat", "a dog"])
    assert [len(item.embedding) for item in answer.data] == [512, 512]
    assert abs(sum(value * value for value in answer.data[0].embedding) - 1) < 1e-4


def responses():
    answer = client.responses.create(model="keeve-demo", input=FRANCE[0]["content"], temperature=0, max_output_tokens=40)
    assert "Paris" in answer.output_text
    with client.responses.stream(
            model="keeve-demo", input=FRANCE[0]["content"], temperature=0, max_output_tokens=40) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == answer.output_text
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def completions():
    answer = client.completions.create(model="keeve-demo", prompt="Once upon", max_tokens=5, temperature=0)
    assert answer.choices[0].finish_reason == "length" and answer.choices[0].text


def errors():
    for wrong, kind in [({"model": "none"}, openai.NotFoundError), ({"temperature": 9}, openai.BadRequestError)]:
        try:
            client.chat.completions.create(**{"model": "keeve-demo", "messages": FRANCE, **wrong})
        except kind as error:
            assert error.body["message"]
        else:
            raise AssertionError(wrong)
    try:
        openai.OpenAI(base_url=URL + "/v1", api_key="wrong").models.list()
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was taken")
    assert [model.id for model in client.models.list()] == ["keeve-demo", "gpt-test"]


def messages():
    claude = anthropic.Anthropic(base_url=URL, api_key=KEY)
    # Newer versions of the client have no parameter for the temperature.
    asked = {"model": "keeve-demo", "max_tokens": 100, "messages": FRANCE, "extra_body": {"temperature": 0}}
    answer = claude.messages.create(**asked)
    assert "Paris" in answer.content[0].text
    with claude.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == answer.content[0].text
        assert stream.get_final_message().usage.output_tokens == answer.usage.output_tokens
    called = {
        **asked, "tools": [{"name": "weather", "input_schema": CITY}],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}}
    whole = claude.messages.create(**called)
    assert whole.stop_reason == "tool_use" and whole.content[0].input["city"] in ("Ulm", "Bonn")
    with claude.messages.stream(**called) as stream:
        assert stream.get_final_message().content[0].input == whole.content[0].input
    formed = claude.messages.create(**asked, output_config={"format": {"type": "json_schema", "schema": CITY}})
    assert json.loads(formed.content[0].text)["city"] in ("Ulm", "Bonn")
    try:
        claude.messages.create(**{**asked, "max_tokens": 0})
    except anthropic.BadRequestError as error:
        assert error.body["error"]["type"] == "invalid_request_error"
    else:
        raise AssertionError("no tokens were taken")


def lite():
    asked = {
        "model": "openai/keeve-demo", "api_base": URL + "/v1", "api_key": KEY, "messages": FRANCE,
        "temperature": 0, "max_tokens": 40}
    answer = litellm.completion(**asked)
    text = answer.choices[0].message.content
    assert "Paris" in text
    pieces = litellm.completion(**asked, stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
    answer = litellm.embedding(
        model="openai/keeve-demo", api_base=URL + "/v1", api_key=KEY, input=["a cat"], encoding_format="float")
    assert len(answer.data[0]["embedding"]) == 512


def ollamas():
    olm = ollama.Client(host=URL, headers={"Authorization": "Bearer " + KEY})
    greedy = {"temperature": 0, "num_predict": 40, "num_ctx": 4096}
    assert [model.model for model in olm.list().models] == ["keeve-demo:latest", "gpt-test:latest"]
    asked = {"model": "keeve-demo", "messages": FRANCE, "options": greedy}
    answer = olm.chat(**asked)
    assert "Paris" in answer.message.content and answer.done_reason == "stop" and answer.eval_duration > 0
    pieces = list(olm.chat(**asked, stream=True, logprobs=True, top_logprobs=2))
    assert "".join(piece.message.content for piece in pieces) == answer.message.content and pieces[-1].done
    assert len(pieces[0].logprobs[0].top_logprobs) == 2
    formed = olm.chat(**asked, format=CITY, think=False)
    assert json.loads(formed.message.content)["city"] in ("Ulm", "Bonn")

    def weather(city: str) -> str:
        """The weather.

        Args:
            city: where
        """
        return city

    olm.chat(**asked, tools=[weather])
    told = FRANCE + [
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "weather", "arguments": {"city": "Ulm"}}}]},
        {"role": "tool", "tool_name": "weather", "content": "sunny"}]
    assert olm.chat(model="keeve-demo", messages=told, options=greedy).done
    generated = olm.generate(model="keeve-demo", prompt=FRANCE[0]["content"], options=greedy, keep_alive="5m")
    assert generated.response == answer.message.content and generated.prompt_eval_count > 0
    pieces = olm.generate(model="keeve-demo", prompt="Once upon", raw=True, options=greedy, stream=True)
    assert "".join(piece.response for piece in pieces)
    assert olm.generate(model="keeve-demo", prompt="The capital", suffix=" is Paris.", options=greedy).done
    vectors = olm.embed(model="keeve-demo", input=["a cat", "a dog"]).embeddings
    assert [len(vector) for vector in vectors] == [512, 512]
    assert len(olm.embeddings(model="keeve-demo", prompt="a cat").embedding) == 512
    shown = olm.show("keeve-demo")
    assert shown.details.family and "completion" in shown.capabilities and shown.modelinfo["general.architecture"]
    assert olm.ps().models[0].context_length > 0
    assert olm.pull("keeve-demo").status == "success"
    for refused in [lambda: olm.pull("llama3"), lambda: olm.delete("keeve-demo"), lambda: olm.chat(model="llama3"),
                    lambda: olm.copy("a", "b"), lambda: olm.create(model="a", from_="b")]:
        try:
            refused()
        except ollama.ResponseError as error:
            assert error.error and error.status_code in (404, 501), error
        else:
            raise AssertionError("not refused")


for test in [ollamas, chat, logprobs, schema, tools, embeddings, responses, completions, errors, messages, lite]:
    test()
    print("ok", test.__name__)
