"""Makes llama_cpp.json: what llama.cpp computes from published models, their weights dequantized to F32.

    pip install llama-cpp-py-sync==0.11739 gguf==0.19.0 numpy
    python make.py FOLDER

FOLDER has the files below, as `cargo xtask peers --fetch-only` leaves them in target/peers/models.
"""

import json
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from llama_cpp_py_sync._cffi_bindings import ffi, get_lib

llama = get_lib()

MODELS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct Q4_1",
    "gemma-3-270m-q4_k_m.gguf": "Gemma 3 270M Q4_K_M",
}
TEXT = Path(__file__).with_name("wikitext-2-64k.txt")
WINDOW = 512
FIRST = 8  # windows that are compared where time is short
STEPS = 64
PLAIN = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "The three laws of thermodynamics state that",
    "In 1969, the first human being walked on",
    "Water boils at 100 degrees Celsius because",
    "Dear Sir or Madam,\n\nI am writing to",
    "La Révolution française a commencé en",
    "1, 1, 2, 3, 5, 8, 13,",
    "The quick brown fox",
    "Ingredients:\n- 200 g flour\n- 2 eggs\n-",
    "Q: What is the largest planet of the Solar System?\nA:",
    "#include <stdio.h>\n\nint main(void) {\n",
    "Shakespeare wrote",
    "The mitochondria are",
    "| name | age |\n|---|---|\n| Ann | 31 |\n|",
]
TALKS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Explain gravity to a child.",
    "Translate 'good morning' into Spanish.",
]


def prompts(vocabulary_text):
    """Texts, and whether special tokens in them are meant as such. A model that knows ChatML is talked to in it."""
    talk = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    chat = "<|im_start|>" in vocabulary_text
    return [(text, False) for text in PLAIN] + [
        (talk.format(text), True) if chat else (f"Question: {text}\nAnswer:", False) for text in TALKS
    ]


def dequantize(source, target):
    """The same file with every tensor in F32, by gguf's own dequantization, which is llama.cpp's to the bit."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = 0 if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(side) for side in reversed(tensor.shape)])
        writer.add_tensor(tensor.name, values, raw_dtype=gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return reader.fields["tokenizer.ggml.tokens"].contents()


class Model:
    """A model in 32-bit floats: keys and values too, and no flash attention, which would round them."""

    def __init__(self, path):
        params = llama.llama_model_default_params()
        self.model = llama.llama_model_load_from_file(str(path).encode(), params)
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = WINDOW
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama.llama_init_from_model(self.model, params)
        self.vocab = llama.llama_model_get_vocab(self.model)
        self.width = llama.llama_vocab_n_tokens(self.vocab)

    def ids(self, text, special):
        data = text.encode()
        room = len(data) + 16
        found = ffi.new("llama_token[]", room)
        count = llama.llama_tokenize(self.vocab, data, len(data), found, room, True, special)
        assert count >= 0
        return ffi.unpack(found, count)

    def run(self, ids, start, rows_from):
        """Logits of the positions from `rows_from`, of tokens that stand at `start` and after it."""
        batch = llama.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            batch.token[index] = token
            batch.pos[index] = start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = start + index >= rows_from
        assert llama.llama_decode(self.context, batch) == 0
        rows = [
            np.frombuffer(
                ffi.buffer(llama.llama_get_logits_ith(self.context, index), 4 * self.width), np.float32
            ).copy()
            for index in range(len(ids))
            if batch.logits[index]
        ]
        llama.llama_batch_free(batch)
        return rows

    def clear(self):
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)

    def greedy(self, ids):
        self.clear()
        tokens, margins = [], []
        [row] = self.run(ids, 0, len(ids) - 1)
        for step in range(STEPS):
            best = int(row.argmax())
            tokens.append(best)
            margins.append(round(float(row[best] - np.partition(row, -2)[-2]), 5))
            if step + 1 < STEPS:
                [row] = self.run([best], len(ids) + step, 0)
        return tokens, margins

    def perplexity(self, text):
        """As llama-perplexity counts: the second half of each whole window (tools/perplexity/perplexity.cpp).

        After the first windows and after all, and how many predictions that is.
        """
        ids = self.ids(text, False)
        nll = count = first = 0
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            self.clear()
            window = ids[start : start + WINDOW]
            if llama.llama_vocab_get_add_bos(self.vocab):
                window[0] = llama.llama_vocab_bos(self.vocab)
            rows = self.run(window, 0, WINDOW // 2)
            for row, token in zip(rows, ids[start + WINDOW // 2 + 1 : start + WINDOW]):
                row = row.astype(np.float64)
                top = row.max()
                nll += top + np.log(np.exp(row - top).sum()) - row[token]
                count += 1
            if start == (FIRST - 1) * WINDOW:
                first = float(np.exp(nll / count))
        return first, float(np.exp(nll / count)), count


def figures(path, name):
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder) / "f32.gguf"
        vocabulary = dequantize(path, floats)
        model = Model(floats)
        rows = []
        for text, special in prompts(set(vocabulary)):
            ids = model.ids(text, special)
            tokens, margins = model.greedy(ids)
            rows.append({"text": text, "special": special, "ids": ids, "greedy": tokens, "margins": margins})
        first, perplexity, count = model.perplexity(TEXT.read_text())
    return {
        "name": name,
        "perplexity_at_first": round(first, 6),
        "perplexity": round(perplexity, 6),
        "predictions": count,
        "prompts": rows,
    }


@ffi.callback("ggml_log_callback")
def errors(level, text, _):
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        sys.stderr.buffer.write(ffi.string(text))


if __name__ == "__main__":
    llama.llama_log_set(errors, ffi.NULL)
    found = {file: figures(Path(sys.argv[1]) / file, name) for file, name in MODELS.items()}
    lines = []
    for file, model in found.items():
        rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in model.pop("prompts"))
        head = json.dumps(model)[:-1]
        lines.append(f'{json.dumps(file)}: {head}, "prompts": [\n{rows}\n]}}')
    Path(__file__).with_name("llama_cpp.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
