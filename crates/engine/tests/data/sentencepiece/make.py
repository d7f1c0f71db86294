"""Makes the SentencePiece models of this folder and their ids: python make.py OUT (sentencepiece 0.2)."""
import io, json, sys, random
import sentencepiece as spm
out = sys.argv[1]
random.seed(5)
words = "the quick brown fox jumps over a lazy dog and then some more words follow here while tokens are being merged by score ünder größe naïve café 東京 日本語 привет мир 12 345 6789 hello world".split()
lines = [" ".join(random.choices(words, k=12)).capitalize() + random.choice([".", "!", "?", ", etc."]) for _ in range(600)]
open("corpus.txt", "w").write("\n".join(lines))
open("rules.tsv", "w").write("FF21\t41\nFB01\t66 69\n3000\t20\n41 30A\tC5\n")
kinds = {
 "bpe_bytes": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, vocab_size=500),
 "bpe_plain": dict(model_type="bpe", normalization_rule_tsv="rules.tsv", vocab_size=260, character_coverage=0.99),
 "unigram": dict(model_type="unigram", normalization_rule_tsv="rules.tsv", vocab_size=200, character_coverage=0.99),
 "unigram_bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity", vocab_size=460, remove_extra_whitespaces=False, add_dummy_prefix=False),
 "unigram_suffix": dict(model_type="unigram", normalization_rule_name="identity", vocab_size=200, treat_whitespace_as_suffix=True),
}
texts = ["", " ", "   ", "hello world", " hello  world ", "The quick brown fox.", "größe naïve CAFÉ", "東京 日本語 🚀🚀 x", "a\nb\n\nc", "ﬁnd Ａ\u3000B", "A\u030angstrom", "<think> then <think>x", "\u2581under\u2581", "tab\tsep", "привет, мир!", "1234567890", "zzz qqq $$$ ###", "x" * 40, "e\u0301 \u200b."]
reference = {}
for name, options in kinds.items():
    spm.SentencePieceTrainer.train(input="corpus.txt", hard_vocab_limit=False, model_prefix=f"{out}/{name}", minloglevel=2, **options)
    p = spm.SentencePieceProcessor(model_file=f"{out}/{name}.model")
    reference[name] = [{"text": t, "ids": p.encode(t), "decoded": p.decode(p.encode(t))} for t in texts]
json.dump(reference, open(f"{out}/reference.json", "w"), ensure_ascii=False, indent=0)
