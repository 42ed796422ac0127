#!/usr/bin/env python3
"""Converts public question answering data to a corpus that genir reads (the `paper` layout).

    convert_corpus.py squad squad-1000 train-v1.1.json dev-v1.1.json --documents 1000
    convert_corpus.py nq nq100k --train simplified-nq-train.jsonl.gz --test nq-dev-all.jsonl.gz --documents 100000
    convert_corpus.py nq-tsv nq320k --train nq_train.tsv --test nq_dev.tsv
    convert_corpus.py dpr nq-dpr --train biencoder-nq-train.json --test biencoder-nq-dev.json

The output directory gets documents.json and {train,val,test}_queries.json. It appears when all of it is written, and an
existing one is not overwritten. Input files may be gzip. Needs Python 3.11 or newer and nothing else.
"""

import argparse
import csv
import gzip
import hashlib
import heapq
import html
import json
import os
import random
import re
import shutil
import sys
import urllib.parse
from collections import Counter
from itertools import islice

TSV_COLUMNS = ["query", "id", "long answer", "short answer", "title", "abstract", "content", "text", "language"]
HTML_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
SPACE = re.compile(r"[\ufeff \t\r\n]*")
CHUNK = 1 << 20


class BadInput(Exception):
    """An input that cannot be converted: where, what was found, and what would be right."""


def open_text(path):
    """Opens a plain or gzip file for reading as UTF-8. A gzip file is known by its first two bytes, not by its name."""
    try:
        with open(path, "rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        opener = gzip.open if is_gzip else open
        return opener(path, "rt", encoding="utf-8", newline="")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error


def numbered(path, lines):
    """Yields `(line number, line)`, and names the file and line of whatever cannot be read."""
    number = 0
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except (UnicodeDecodeError, EOFError, OSError, csv.Error) as error:
            raise BadInput(f"{path}:{number + 1}: {error}") from error
        number += 1
        yield number, line


def json_lines(path):
    """Yields `(place, object)` for each line of a JSON lines file."""
    with open_text(path) as file:
        for number, line in numbered(path, iter(file)):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
            yield place, expect(value, dict, place, "a JSON object")


def json_array(path):
    """Yields `(place, object)` for each element of a JSON array. About one element is in memory at a time."""
    decoder = json.JSONDecoder()
    with open_text(path) as file:
        text, at, line, at_end = "", 0, 1, False  # `at` is the position in `text`, `line` its line
        wanted = "["  # the character that must come next, if any
        while True:
            start = at
            at = SPACE.match(text, at).end()
            line += text.count("\n", start, at)
            place = f"{path}:{line}"
            rest = at < len(text)
            if rest and text[at] == "]" and wanted != "[":
                return
            if rest and wanted:
                if text[at] != wanted:
                    what = "a JSON array" if wanted == "[" else "`,` or `]`"
                    raise BadInput(f"{place}: expected {what}, found {text[at : at + 20]!r}")
                at, wanted = at + 1, ""
                continue
            problem = None
            if rest:
                try:
                    value, end = decoder.raw_decode(text, at)
                    if end < len(text):  # otherwise more of it may follow
                        yield place, expect(value, dict, place, "a JSON object")
                        line += text.count("\n", at, end)
                        at, wanted = end, ","
                        continue
                except json.JSONDecodeError as error:
                    at_line = line + text.count("\n", at, error.pos)
                    problem = BadInput(f"{path}:{at_line}: not JSON: {error.msg}")
            if at_end:
                raise problem or BadInput(f"{place}: the file ends within the array")
            try:
                # Doubling what is held keeps a large element from being parsed again and again.
                more = file.read(max(CHUNK, len(text) - at))
            except (UnicodeDecodeError, EOFError, OSError) as error:
                raise BadInput(f"{path}: {error}") from error
            text, at, at_end = text[at:] + more, 0, not more


def expect(value, kind, place, what):
    """Returns `value` if it is of type `kind`; otherwise says what was found in its place."""
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise BadInput(f"{place}: expected {what}, found {shown(value)}")
    return value


def shown(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


def member(record, key, kind, place):
    """Returns `record[key]` if it is of type `kind`."""
    if key not in record:
        raise BadInput(f"{place}: the key `{key}` is missing; there are {', '.join(sorted(record)) or 'no keys'}")
    names = {str: "text", list: "a list", dict: "an object", bool: "true or false", (str, int): "text or an integer"}
    return expect(record[key], kind, place, f"{names[kind]} for `{key}`")


def cleaned(text):
    """Returns the text with single spaces. U+FFFD replaces half a surrogate pair, which UTF-8 cannot hold."""
    return " ".join(text.encode("utf-8", "surrogatepass").decode("utf-8", "replace").split())


class Collection:
    """Documents by their keys, and queries that name their document by its key.

    With a limit, the documents with the lowest hashes of seed and key are kept: a sample that depends on the seed and
    the keys only, drawn in one pass and without holding the other documents.
    """

    def __init__(self, arguments):
        self.limit, self.seed, self.words = arguments.documents, arguments.seed, arguments.words
        self.texts = {}  # key: text, in the order in which the documents were found
        self.highest = []  # a heap of (-hash, key), with a limit only
        self.queries = {}  # id: (split, text, key)
        self.notes = Counter()

    def wants(self, key):
        """Whether a document with this key would be new, and in the sample so far."""
        if key in self.texts:
            return False
        return self.limit is None or len(self.highest) < self.limit or self.entry(key) > self.highest[0]

    def entry(self, key):
        digest = hashlib.blake2b(f"{self.seed} {key}".encode("utf-8", "replace"), digest_size=8).digest()
        return (-int.from_bytes(digest, "big"), key)

    def document(self, key, text):
        """Adds a document if it is wanted."""
        if not self.wants(key):
            return
        words = cleaned(text).split(" ", self.words)
        text = " ".join(words[: self.words])
        if not text:
            self.notes["documents without text, left out"] += 1
            return
        if self.limit is not None:
            if len(self.highest) < self.limit:
                heapq.heappush(self.highest, self.entry(key))
            else:
                del self.texts[heapq.heapreplace(self.highest, self.entry(key))[1]]
        self.texts[key] = text

    def query(self, split, identifier, text, key, place):
        """Adds a query. `split` may be None: `divide` then chooses it."""
        text = cleaned(text)
        if not text:
            self.notes["questions without text, left out"] += 1
        elif identifier in self.queries:
            raise BadInput(f"{place}: the question id `{identifier}` was used before; ids must differ")
        else:
            self.queries[identifier] = (split, text, key)

    def divide(self, validation):
        """Gives a split to all queries that have none, or moves `validation` training queries to validation."""
        generator = random.Random(self.seed)
        by_key = {}
        for identifier, (split, _, key) in self.queries.items():
            if split is None and key in self.texts:
                by_key.setdefault(key, []).append(identifier)
        for identifiers in by_key.values():
            held_out = generator.sample(identifiers, 2) if len(identifiers) >= 3 else [None, None]
            for identifier in identifiers:
                split = {held_out[0]: "val", held_out[1]: "test"}.get(identifier, "train")
                self.queries[identifier] = (split, *self.queries[identifier][1:])
        if validation:
            train = [id for id, (split, _, key) in self.queries.items() if split == "train" and key in self.texts]
            if validation >= len(train):
                raise BadInput(f"--validation {validation}: there are only {len(train)} training questions; give fewer")
            for identifier in generator.sample(train, validation):
                self.queries[identifier] = ("val", *self.queries[identifier][1:])

    def write(self, directory):
        """Writes the corpus under another name, and renames it when it is whole."""
        directory = os.path.abspath(directory)
        partial = f"{directory}.partial-{os.getpid()}"
        rows = {key: row for row, key in enumerate(self.texts)}
        counts, trained = Counter(), set()
        absent = sum(key not in rows for _, _, key in self.queries.values())
        if absent:
            self.notes["questions about documents that were not kept"] += absent
        try:
            os.makedirs(partial)
            documents = ({"id": row, "text": text} for row, text in enumerate(self.texts.values()))
            write_array(os.path.join(partial, "documents.json"), documents)
            for split in ["train", "val", "test"]:
                queries = [
                    {"id": identifier, "query": text, "relevant_docs": [rows[key]]}
                    for identifier, (of, text, key) in self.queries.items()
                    if of == split and key in rows
                ]
                counts[split] = len(queries)
                relevant = [query["relevant_docs"][0] for query in queries]
                trained.update(relevant if split == "train" else [])
                counts[f"{split} unseen"] = sum(row not in trained for row in relevant)
                if queries:
                    write_array(os.path.join(partial, f"{split}_queries.json"), queries)
            # Replaces an empty directory, and nothing else.
            os.rename(partial, directory)
        except OSError as error:
            raise BadInput(f"{error.filename or directory}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        print(f"{directory}\n  documents: {len(rows):,}")
        for split in ["train", "val", "test"]:
            unseen = counts[f"{split} unseen"]
            note = f", {unseen:,} of them about documents without a training question" if unseen else ""
            print(f"  {split} questions: {counts[split]:,}{note}")
        for note, count in sorted(self.notes.items()):
            print(f"  {note}: {count:,}")


def write_array(path, values):
    with open(path, "w", encoding="utf-8") as file:
        before = "[\n"
        for value in values:
            file.write(before + json.dumps(value, ensure_ascii=False))
            before = ",\n"
        file.write("\n]\n")


def read_squad(collection, arguments):
    """SQuAD 1.1 and 2.0: a paragraph is a document. Unanswerable questions of 2.0 are left out."""
    for path in arguments.files:
        with open_text(path) as file:
            try:
                data = json.load(file)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
            except (UnicodeDecodeError, EOFError, OSError) as error:
                raise BadInput(f"{path}: {error}") from error
        articles = member(expect(data, dict, path, "a JSON object"), "data", list, path)
        for a, article in enumerate(articles):
            place = f"{path}: data[{a}]"
            for p, paragraph in enumerate(member(expect(article, dict, place, "an object"), "paragraphs", list, place)):
                place = f"{path}: data[{a}].paragraphs[{p}]"
                context = member(expect(paragraph, dict, place, "an object"), "context", str, place)
                key = cleaned(context)
                collection.document(key, context)
                for q, question in enumerate(member(paragraph, "qas", list, place)):
                    place = f"{path}: data[{a}].paragraphs[{p}].qas[{q}]"
                    identifier = member(expect(question, dict, place, "an object"), "id", (str, int), place)
                    text = member(question, "question", str, place)
                    if question.get("is_impossible") is True:
                        collection.notes["unanswerable questions, left out"] += 1
                    else:
                        collection.query(None, str(identifier), text, key, place)


def read_nq(collection, arguments):
    """Natural Questions, one example a line: the simplified form, the original form, or the one of Hugging Face."""
    for split, path in [("train", arguments.train), ("test", arguments.test)]:
        for place, record in json_lines(path) if path else ():
            title, pairs = nq_page(record, place)
            key = title_key(title)
            if not key:
                raise BadInput(f"{place}: the page has no title: expected `document_url`, `document_title` or an <H1>")
            if collection.wants(key):
                body = page_text(pairs, arguments.text, arguments.words)
                collection.document(key, f"{title}. {body}" if body else "")
            question = record.get("question")
            question = member(question, "text", str, place) if isinstance(question, dict) else None
            question = question if question is not None else member(record, "question_text", str, place)
            identifier = record.get("example_id", record.get("id"))
            identifier = expect(identifier, (str, int), place, "text or an integer for `example_id` or `id`")
            collection.query(split, str(identifier), question, key, place)


def nq_page(record, place):
    """Returns the title of a page, and a function that gives its tokens as `(token, whether it is an HTML tag)`."""
    document = record.get("document")
    if isinstance(document, dict):
        tokens = document.get("tokens")
        if isinstance(tokens, dict):
            words, html_flags = member(tokens, "token", list, place), member(tokens, "is_html", list, place)
            check = lambda word: expect(word, str, place, "texts in `token`")
            pairs = lambda: ((check(word), is_html) for word, is_html in zip(words, html_flags))
            return title_of(document.get("url"), document.get("title"), list), pairs
        tokens = member(document, "tokens", list, place)
        return title_of(document.get("url"), document.get("title"), list), lambda: pairs_of(tokens, "is_html", place)
    if "document_text" in record:
        text = member(record, "document_text", str, place)
        pairs = lambda: ((token, token[0] == "<" and bool(HTML_TAG.fullmatch(token))) for token in text.split())
    else:
        tokens = member(record, "document_tokens", list, place)
        pairs = lambda: pairs_of(tokens, "html_token", place)
    return title_of(record.get("document_url"), record.get("document_title"), pairs), pairs


def pairs_of(tokens, html_key, place):
    for token in tokens:
        expect(token, dict, place, "an object for each token")
        yield member(token, "token", str, place), member(token, html_key, bool, place)


def title_of(url, title, pairs):
    """The title of a page: as it is given, else that of its address, else its first heading."""
    if isinstance(title, str) and title.strip():
        return cleaned(title)
    if isinstance(url, str):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(html.unescape(url)).query)
        if query.get("title"):
            return cleaned(query["title"][0].replace("_", " "))
    return cleaned(" ".join(between(pairs(), "<h1>", "</h1>", first=True)))


def title_key(title):
    """What pages are compared by: the same title spaced or capitalised otherwise is the same page."""
    return "".join(title.lower().split())


def between(pairs, opening, closing, first=False):
    """Yields the words between two HTML tags, of each such pair of tags or of the first."""
    inside = False
    for token, is_html in pairs:
        tag = token.lower() if is_html else ""
        if tag == opening:
            inside = True
        elif tag == closing and inside:
            inside = False
            if first:
                return
        elif inside and not is_html:
            yield token


def page_text(pairs, kind, limit):
    """The first words of a page's paragraphs, or of all of it: also if it has no paragraph, and with `article`."""
    words = list(islice(between(pairs(), "<p>", "</p>"), limit)) if kind == "paragraphs" else []
    return " ".join(words or islice((token for token, is_html in pairs() if not is_html), limit))


def read_nq_tsv(collection, arguments):
    """The tables that the preprocessing of NCI writes for NQ320k: nine columns, no header, pandas' quoting."""
    csv.field_size_limit(1 << 30)
    for split, path in [("train", arguments.train), ("test", arguments.test)]:
        if not path:
            continue
        with open_text(path) as file:
            rows = csv.reader(file, delimiter="\t")
            for number, row in numbered(path, rows):
                place = f"{path}:{rows.line_num}"
                if len(row) != len(TSV_COLUMNS):
                    expected = f"expected {len(TSV_COLUMNS)} columns ({', '.join(TSV_COLUMNS)})"
                    raise BadInput(f"{place}: {expected}, separated by tabs, found {len(row)}")
                query, title, text = row[0], row[4], row[7]
                key = title_key(title) or title_key(text)
                collection.document(key, text)
                # The ids of examples are not unique over the tables of all languages; the row is.
                collection.query(split, f"{split}-{number}", query, key, place)


def read_dpr(collection, arguments):
    """DPR's training files (`biencoder-nq-train.json`): the first positive passage of a question is its document."""
    for split, path in [("train", arguments.train), ("test", arguments.test)]:
        for number, (place, record) in enumerate(json_array(path) if path else (), 1):
            passages = member(record, "positive_ctxs", list, place)
            question = member(record, "question", str, place)
            if not passages:
                collection.notes["questions without a positive passage, left out"] += 1
                continue
            passage = expect(passages[0], dict, place, "an object for each of `positive_ctxs`")
            text, title = member(passage, "text", str, place), passage.get("title") or ""
            # Files of one release name passages alike; without names, equal text is the same passage.
            key = passage.get("passage_id") or passage.get("psg_id") or title_key(text)
            collection.document(str(key), f"{title}. {text}" if title else text)
            collection.query(split, f"{split}-{number}", question, str(key), place)


def whole_number(least):
    def parse(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, found {text!r}")
        return int(text)

    return parse


def parse_arguments(arguments):
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="FORMAT")

    def command(name, read, summary):
        added = commands.add_parser(name, help=summary, description=f"{summary}.", formatter_class=form)
        added.set_defaults(read=read, validation=0)
        added.add_argument("output", help="the directory to write, such as data/squad-1000")
        added.add_argument(
            "--documents", type=whole_number(1), metavar="N", help="keep a random sample of N documents (default: all)"
        )
        added.add_argument("--seed", type=whole_number(0), default=1, help="of the sample and the splits (default: 1)")
        added.add_argument(
            "--words", type=whole_number(1), default=500, metavar="N", help="words of a document to keep (default: 500)"
        )
        return added

    squad = command(
        "squad", read_squad,
        "SQuAD 1.1 or 2.0: paragraphs are documents; a paragraph with three or more questions gives one to "
        "validation and one to test",
    )
    squad.add_argument("files", nargs="+", metavar="FILE", help="such as train-v1.1.json dev-v1.1.json")
    for name, read, summary in [
        ("nq", read_nq, "Natural Questions in JSON lines: pages are documents, one for each title"),
        ("nq-tsv", read_nq_tsv, "Natural Questions as NCI prepares NQ320k (nq_train.tsv, nq_dev.tsv)"),
        ("dpr", read_dpr, "DPR's training files: positive passages are documents"),
    ]:
        added = command(name, read, summary)
        added.add_argument("--train", required=True, metavar="FILE", help="training questions")
        added.add_argument("--test", metavar="FILE", help="test questions (of NQ320k: its development set)")
        added.add_argument(
            "--validation", type=whole_number(0), default=1000, metavar="N",
            help="size of a random sample of the training questions that becomes the validation split (default: 1000)",
        )
        if name == "nq":
            added.add_argument(
                "--text", choices=["paragraphs", "article"], default="paragraphs",
                help="what follows the title: the words of paragraphs, or all words, tables included "
                "(default: paragraphs)",
            )
    return parser.parse_args(arguments)


def main():
    arguments = parse_arguments(sys.argv[1:])
    try:
        if os.path.lexists(arguments.output) and not (
            os.path.isdir(arguments.output) and not os.listdir(arguments.output)
        ):
            raise BadInput(f"{arguments.output}: exists; give a directory that does not exist or is empty")
        collection = Collection(arguments)
        arguments.read(collection, arguments)
        if not collection.texts:
            raise BadInput("there are no documents in the input")
        collection.divide(arguments.validation)
        collection.write(arguments.output)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
    except RecursionError:
        print("error: the JSON of the input is nested too deeply", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
