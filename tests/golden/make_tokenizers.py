"""Writes tests/golden/tokenizers: small tokenizers in the styles of published ones, and what the Hugging Face
library "tokenizers" makes of hard texts with them.

The texts that the tokenizers are trained on are made here, so that nothing is downloaded, and every run writes the
same files. The tests read the files; they need no Python.
To make the files again: pip install tokenizers==0.22.2; python make_tokenizers.py

<style>.json      a tokenizer
cases.json        {"texts": [...], "tokenizers": {"<style>": {"before": [ids], "behind": [ids], "results": [...]}}}
                  A text is a string, {"hex": bytes that are not all UTF-8} or {"repeat": [string, times]}. Of the
                  same index, a result: {"ids": without special tokens around them; encoding with these adds "before"
                  and "behind", "text": decoded without special tokens, absent if it is the text itself, "all":
                  decoded with them, absent if it is the same}
variants.json     [{"name", "tokenizer": a whole tokenizer.json, "texts", "results"}, ...] for what no style uses
"""

import json
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VERSION = "0.22.2"
FOLDER = Path(__file__).parent / "tokenizers"

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")


class Random:
    """The same numbers in every version of Python."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n

    def choice(self, items):
        return items[self.below(len(items))]


WORDS = """the of and to in is that for it as was with be by on not he his but at are this have from or had an they
which one you were her all she there would their we him been has when who will more no if out so said what up its
about into than them can only other new some could time these two may then do first any my now such like our over man
me even most made after also did many before must through back years where much your way well down should because each
just those people how too little state good very make world still own see men work long get here between both life
being under never day same another know while last might us great old year off come since against go came right used
take three don't I'm you'll he's we've they're it'd CAN'T""".split()
OTHER_SCRIPTS = """größe straße naïve café éclair Привет мир слово Γειά σου κόσμε שלום עולם مرحبا بالعالم नमस्ते दुनिया
สวัสดีชาวโลก 안녕하세요 세계 こんにちは 世界 你好 世界 中文 字符 ខ្មែរ 😀 👍🏽 👩‍👩‍👧 🇩🇪 ❤️""".split()
CODE = [
    "for (int i = 0; i < 10; ++i) {\n    sum += values[i];\n}\n",
    "def f(x, y=None):\n\treturn x if y is None else x + y\n",
    "<html>\r\n  <body class=\"main\">&nbsp;</body>\r\n</html>\r\n",
    "aaaaaaaaaaaaaaaa --------------- ===============\n\n\n",
]


def corpus():
    random = Random(1)
    for _ in range(400):
        words = [random.choice(WORDS if random.below(5) else OTHER_SCRIPTS) for _ in range(12)]
        words[0] = words[0].capitalize()
        yield " ".join(words) + random.choice([".", "!", "?", ", ", ":\n", "...  "]) + str(random.below(100000))
        if random.below(4) == 0:
            yield random.choice(CODE)


def hard_texts():
    yield ""
    yield from (" ", "  ", "   a", "a   ", "a  b   c    d", "\t", "\t\ta", "\n", "\n\n\n", " \n \n", "\r\n", "a\r\n\r\nb")
    yield from ("\r", "a\rb", " \t \r\n x", "  \n  x", "x  \n", " " * 17 + "x", "\n" * 9 + " " * 5, "\v\f")
    # white space that is not ASCII, what only looks like it, and what has no width
    for code in (0x85, 0xA0, 0x1680, 0x180E, 0x2000, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000):
        yield f"a{chr(code)}b {chr(code)} c{chr(code)}{chr(code)}"
    for code in (0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0xAD, 0x34F, 0x61C):
        yield f"a{chr(code)}b{chr(code)}"
    yield from ("0", "12", "123", "1234", "1234567", "3.14159", "1,000,000", "0x1F", "1e-5", "٣٤٥٦", "४५६७", "ⅷ", "½", "²³")
    yield from ("it's", "IT'S", "it'S", "we'll WE'LL We'Ll", "don't DON'T", "I'm I'M", "they're THEY'RE", "'s", " 's")
    yield from ("it'ſ", "IT'ſ x", "'ve'VE'vE", "'d'D", "o'clock", "''s", "'st", "it’s", "'ll'lL")
    yield from (CODE[0], CODE[1], CODE[2], CODE[3], "a_b::c<d>(e)[f]{g};//h\n", "\\n\\t\"'`~!@#$%^&*()-+=|", "a.b,c;d:e")
    yield from ("https://example.org/a?b=c&d=%20#e", "user@example.org", "C:\\path\\to", "$x^2_{i+1}$", "1+1=2")
    yield from ("e\u0301", "é", "a\u0323\u0307", "a\u0307\u0323", "\u0344", "\u1e9b\u0323", "Å\u212b", "\u2126", "\u0301\u0301a")
    yield from ("각", "\u1100\u1161\u11a8", "\u1100\u1161", "가\u11a8", "한국어 텍스트입니다.", "ﬁ ﬀ ﬃ", "Ⅷ①㎏", "ｱｲｳ ＡＢＣ", "ß ẞ SS")
    yield from ("שָׁלוֹם", "مَرْحَبًا", "สวัสดีครับ", "नमस्ते क्षत्रिय", "தமிழ்", "বাংলা", "ខ្មែរ", "မြန်မာ", "བོད་སྐད", "አማርኛ", "ქართული", "Հայերեն")
    yield from ("日本語のテキスト、漢字。", "中文，标点。", "繁體「字」", "ひらがなカタカナ", "한글 띄어쓰기", "Ελληνικά", "Русский текст", "ĞİŞığ")
    yield from ("😀", "😀😁😂", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "1️⃣", "☃", "🧑🏿‍🚀 x", "©®™", "→⇒∀∃∑√∞")
    # one or more characters of every plane, private and noncharacters among them
    yield from ("\u0000", "a\u0000b", "\u0001\u001f\u007f", "\u0080\u009f", "\ufffd", "\ufffe\uffff", "\ue000\uf8ff")
    yield from ("𝕳𝖊𝖑𝖑𝖔 𝟙𝟚𝟛", "𐍈𐎀𐤀", "𒀀𓀀", "𐐷𐐏", "𠀀𪜀𫝀", "𰀀𱍊", "\U00040000\U00050001", "\U000e0041\U000e007f", "\U000e0100", "\U000f0000\U0010ffff")
    yield from ("Hello, world!", "The quick brown fox", " leading", "trailing ", "MiXeD CaSe", "ÀÉÎÕÜ àéîõü", "a" * 40, "-" * 33)
    yield from ("▁", "▁a ▁ b", " ▁", "<0x41>", "<0x0A><0xE2>", "Ġ", "Ġa Ċ", "unmergeable", " unmergeable x")
    for token in ("<s>", "</s>", "<unk>", "<|endoftext|>", "<|begin_of_text|>", "<|im_start|>"):
        yield from (token, f"{token}{token}", f"a{token}b", f" {token} ", f"a {token}  b", f"{token[:-1]}", f"<{token}>\n{token}x")
    yield "<|im_start|>user\nHi<|im_end|>\n<tool_call>{}</tool_call>"
    for bad in ("ff", "80", "61c3", "c3", "c328", "e282", "e28261", "f09f98", "f09f9861", "eda080", "edbfbf", "c080", "c1bf"):
        yield bytes.fromhex(bad)
    for bad in ("e08080", "f0808080", "f4908080", "f5808080", "f8888080", "fe", "61ff62", "e2e282ac", "f0f09f9880", "80808080"):
        yield bytes.fromhex(bad)
    yield b"a\xe2\x82 b \xf0\x9f\x98 c\xc3"
    yield from (("a", 20000), (" ", 5000), ("ab ", 300), ("\n", 1000), ("the", 2000), ("é", 600), ("x\u0301\u0323", 200))


FUZZ_PIECES = [
    " ", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u200b", "\u200d", "a", "b", "the", "The", "I'm", "'S",
    "'ſ", "'", "l", "1", "23", "4567", "٣", "²", ".", "...", "-", "_", "(", "é", "e\u0301", "\u0323", "\u0307", "ß", "ſ", "İ", "д", "ש", "ع", "ि",
    "ก", "한", "\u1161", "世", "か", "😀", "🏽", "🇩", "\ufe0f", "𐍈", "𠀀", "\U0010ffff", "\ufffd", "▁", "Ġ", "<", "<s>", "</s>",
    "<|endoftext|>", "<|im_end|>", "\u0000", "\u007f",
]


def fuzz_texts():
    random = Random(2)
    for _ in range(250):
        pieces = [random.choice(FUZZ_PIECES) for _ in range(1 + random.below(14))]
        yield "".join(pieces)
    for _ in range(50):  # bytes cut off and knocked over
        data = bytearray("".join(random.choice(FUZZ_PIECES) for _ in range(8)).encode())
        for _ in range(2):
            data[random.below(len(data))] = random.below(256)
        yield bytes(data[random.below(3) :])


def train(tokenizer, size, **options):
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, **options)
    tokenizer.train_from_iterator(corpus(), trainer)


def special(content, **options):
    return AddedToken(content, special=True, normalized=False, **options)


def gpt2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, 700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=True)])
    document = json.loads(tokenizer.to_str())
    # as in GPT-2's own file, which is older than these fields
    del document["model"]["type"], document["model"]["ignore_merges"], document["model"]["byte_fallback"]
    del document["pre_tokenizer"]["use_regex"]
    document["model"]["merges"] = [" ".join(merge) for merge in document["model"]["merges"]]
    document["model"]["continuing_subword_prefix"] = document["model"]["end_of_word_suffix"] = ""
    return document


def byte_level_with(pattern):
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = byte_level_with(LLAMA3_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    train(tokenizer, 700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    document = json.loads(tokenizer.to_str())
    vocabulary = document["model"]["vocab"]  # tokens that no merges lead to, for ignore_merges
    for content in ("unmergeable", "Ġunmergeable"):
        vocabulary[content] = len(vocabulary)
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([special(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "eot_id")])
    begin = "<|begin_of_text|>"
    template = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin}:1 $B:1",
        special_tokens=[(begin, tokenizer.token_to_id(begin))],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return json.loads(tokenizer.to_str())


def qwen2():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = byte_level_with(QWEN2_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tokenizer, 700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_special_tokens([special(f"<|{name}|>") for name in ("endoftext", "im_start", "im_end")])
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in ("<tool_call>", "</tool_call>")])
    return json.loads(tokenizer.to_str())


def llama2(newer):
    """With `newer`, spaces are a pre-tokenizer's business and not a normalizer's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # so that no merge goes beyond a word
    names = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    train(tokenizer, 900, special_tokens=names + bytes_)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in names]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    if newer:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return json.loads(tokenizer.to_str())


def valid(text):
    if isinstance(text, bytes):
        return text.decode("utf-8", errors="replace")
    return text[0] * text[1] if isinstance(text, tuple) else text


def written(text):
    if isinstance(text, bytes):
        return {"hex": text.hex()}
    return {"repeat": list(text)} if isinstance(text, tuple) else text


def result(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    out = {"ids": ids}
    decoded = tokenizer.decode(ids)
    everything = tokenizer.decode(ids, skip_special_tokens=False)
    if decoded != text:
        out["text"] = decoded
    if everything != decoded:
        out["all"] = everything
    return out


def results(document, texts):
    """Results of all texts, and what the post-processor adds: the same for every text."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    out = [result(tokenizer, valid(text)) for text in texts]
    with_specials = [tokenizer.encode(valid(text)).ids for text in texts]
    around = tokenizer.encode("").ids

    def divided(at):
        return all(ids == around[:at] + one["ids"] + around[at:] for ids, one in zip(with_specials, out))

    at = next(at for at in range(len(around) + 1) if divided(at))
    return {"before": around[:at], "behind": around[at:], "results": out}


def write(name, lines):
    """A JSON text of few long lines: `lines` are its parts."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / name).write_text("".join(line + "\n" for line in lines), encoding="ascii")


def one_line(value):
    return json.dumps(value, separators=(",", ":"))


def list_lines(values, end):
    return [one_line(value) + ("," if i + 1 < len(values) else end) for i, value in enumerate(values)]


def write_styles():
    texts = list(hard_texts()) + list(fuzz_texts())
    lines = ['{"texts":['] + list_lines([written(text) for text in texts], "],") + ['"tokenizers":{']
    styles = {"gpt2": gpt2(), "llama3": llama3(), "qwen2": qwen2(), "llama2": llama2(False), "llama2_new": llama2(True)}
    for style, document in styles.items():
        write(f"{style}.json", [one_line(document)])
        found = results(document, texts)
        lines.append(f'"{style}":{{"before":{found["before"]},"behind":{found["behind"]},"results":[')
        lines += list_lines(found["results"], "]}" + ("," if style != list(styles)[-1] else "}}"))
    write("cases.json", lines)


# --- What published tokenizers use less: one part changed at a time, in a tokenizer of a few characters ---

VARIANT_TEXTS = [
    "a b", "  a  b ", "a-b--c---d", "--a--", "-", "a1b22c333 4", "\u0663\u00bd2\u2167x", "ab ab-ab", "x y z", "b\u0301a\u0300 \ufb01 \u2460",
    "<m>", "a<m>b", "a <m> b", "  <m>  <m>  ", "<m><m>", "\n<m>\u3000a", "ab<w>ab <w> <w>", "<w>", "\u24b6<w>", "-<w>-", "_<w>", "<n>a <n>",
    "\u2581a \u2581", "aaaa bbbb", "?a??b", "qq a\u00e9\u4e16q", "", " ", "a  ", "A.B", "ab\u00a0ab", "ab\n\nab\r\n", "12-34 a-1",
    "<m>ab", "ab<n>", " ab<n> ab", "\u0663-a", "caf\u00e9<w>", "e\u0301<w>x",
]  # fmt: skip


def variant_document():
    """Characters, a few merges, an unknown token, and added tokens."""
    characters = "<unk> a b c d x - 1 2 3 \u2581 \u0120 . e \u0301 f i".split() + [" ", "\n"]
    merges = ["a b", "\u2581 a", "- -", "ab ab", "\u2581a b", "1 2", "2 2", "  "][:7]
    vocabulary = characters + [merge.replace(" ", "") for merge in merges]
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {content: i for i, content in enumerate(vocabulary)}, "merges": merges,
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model,
    }  # fmt: skip


def added(content, token, **options):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": content} | flags | options


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def sequence(field, *parts):
    return {"type": "Sequence", field: list(parts)}


def variants():
    replace_space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"{behavior} {invert}", {"pre_tokenizer": split({"String": "-"}, behavior, invert)}
        yield f"{behavior} regex", {"pre_tokenizer": split({"Regex": r"[-\d]|a*"}, behavior)}
    for individual in (False, True):
        yield f"digits {individual}", {"pre_tokenizer": {"type": "Digits", "individual_digits": individual}}
    for scheme in ("first", "never", "always"):
        for cut in (False, True):
            metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": cut}
            yield f"metaspace {scheme} {cut}", {"pre_tokenizer": metaspace, "decoder": metaspace}
            yield f"metaspace {scheme} {cut} after a split", {
                "pre_tokenizer": sequence("pretokenizers", split({"String": "-"}, "Removed"), metaspace),
                "decoder": metaspace,
                "added_tokens": [added("<m>", 26), added("<n>", 27, normalized=True)],
            }
    old = {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True, "str_rep": "\u2581"}
    yield "metaspace, older", {"pre_tokenizer": old, "decoder": old}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    yield "byte level", {"pre_tokenizer": byte_level, "decoder": byte_level}
    yield "byte level without pattern", {"pre_tokenizer": byte_level | {"use_regex": False}, "decoder": byte_level}
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield form, {"normalizer": {"type": form}}
    regex = {"type": "Replace", "pattern": {"Regex": r"\s+|q*"}, "content": "-"}
    yield "replace", {"normalizer": sequence("normalizers", regex, prepend)}
    yield "pattern", {"pre_tokenizer": split({"Regex": r"^\p{L}|(?i:A.B)|(?<=-)-(?=-)|\S(?!\S)$|[^\S\n]+|[\x{31}\u0032-]++"}, "Isolated")}
    yield "fused unknown", {"model": {"fuse_unk": True}}
    yield "no unknown", {"model": {"unk_token": None}}
    yield "some bytes", {"model": {"byte_fallback": True}, "bytes": (0xC3, 0xA9, 0x71), "decoder": {"type": "ByteFallback"}}
    for flag in ("lstrip", "rstrip", "single_word"):
        yield flag, {"added_tokens": [added("<m>", 26, **{flag: True}), added("<w>", 27, **{flag: True}, special=False)]}
    both = [added("<m>", 26, lstrip=True, rstrip=True), added(" ", 17, rstrip=True), added("<m><m>", 27)]
    yield "strips that meet", {"added_tokens": both}
    normalized = [added("<m>", 26, normalized=True), added("<n>", 27, normalized=True, lstrip=True, special=False)]
    yield "normalized", {"added_tokens": normalized, "normalizer": sequence("normalizers", prepend, replace_space)}
    strip = {"type": "Strip", "content": "a", "start": 2, "stop": 0}
    fuse = {"type": "Fuse"}
    yield "strip", {"decoder": sequence("decoders", {"type": "Replace", "pattern": {"Regex": "b+"}, "content": "aa"}, fuse, strip)}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<m>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "end", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<m>": {"id": "<m>", "ids": [26], "tokens": ["<m>"]},
                           "end": {"id": "end", "ids": [1, 2], "tokens": ["a", "b"]}},
    }  # fmt: skip
    yield "template", {"post_processor": template, "added_tokens": [added("<m>", 26)]}


def write_variants():
    lines = []
    for name, changes in variants():
        document = variant_document()
        for byte in changes.pop("bytes", ()):
            vocabulary = document["model"]["vocab"]
            vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
        document["model"] |= changes.pop("model", {})
        document |= changes
        found = results(document, VARIANT_TEXTS)
        lines.append(one_line({"name": name, "tokenizer": document} | found))
    lines = [line + ("," if i + 1 < len(lines) else "]}") for i, line in enumerate(lines)]
    write("variants.json", ['{"texts":' + one_line(VARIANT_TEXTS) + ',"variants":['] + lines)


if __name__ == "__main__":
    assert tokenizers.__version__ == VERSION, f"pip install tokenizers=={VERSION}"
    write_styles()
    write_variants()
