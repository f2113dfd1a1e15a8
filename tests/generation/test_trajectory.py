import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prism_hf.data import SudokuTokenizer
from prism_hf.generation import Trajectory, remask_generate

MASK = 0
TEXT = 'def f(n):\n\tif n < 2: # naïve "🙂" \n        return n\n</py>'


def byte_level_bpe():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["[MASK]", "</script>", "<!--", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT.replace("🙂", "")] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", eos_token="<eos>")


class NoisyWriter(torch.nn.Module):
    """Likes `target` (L,) more the fuller the canvas is; noise and quality are fixed functions of the canvas."""

    def __init__(self, target, vocab_size):
        super().__init__()
        self.target, self.vocab_size, self.config = target, vocab_size, SimpleNamespace(mask_token_id=MASK)

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        logits, quality = [], []
        for row in input_ids:
            g = torch.Generator().manual_seed(int((row * torch.arange(1, len(row) + 1)).sum()))
            likes = torch.nn.functional.one_hot(self.target, self.vocab_size) * 8 * (row != MASK).float().mean()
            logits.append(likes + 2 * torch.randn(likes.shape, generator=g))
            quality.append((row == self.target) * 3.0 - 1 + torch.randn(len(row), generator=g))
        return SimpleNamespace(logits=torch.stack(logits), quality_logits=torch.stack(quality))


SETTINGS = {
    "prism": {"remask_strategy": "prism", "num_remask": 3, "steps": 40},
    "loop": {
        "remask_strategy": "prism",
        "num_remask": 2,
        "steps": 12,
        "loop_start": 7,
        "loop_steps": 5,
        "num_remask_loop": 4,
    },
    "random": {"remask_strategy": "random", "num_remask": 3, "steps": 30},
    "none": {"remask_strategy": "none", "steps": 8},
}


def generated(name, target, vocab_size):
    """The trajectory of two rows with a prompt of 10 and of 4 tokens."""
    ids = target.repeat(2, 1)
    ids[0, 10:] = ids[1, 4:] = MASK
    return remask_generate(
        NoisyWriter(target, vocab_size),
        ids,
        order="random",
        do_sample=True,
        return_dict_in_generate=True,
        output_trajectory=True,
        generator=torch.Generator().manual_seed(0),
        **SETTINGS[name],
    ).trajectory


def written(name):
    """A tokenizer, and a trajectory that writes TEXT and then special tokens with it."""
    tokenizer = byte_level_bpe()
    target = tokenizer(TEXT)["input_ids"] + [1, 2, 3, 3]
    return tokenizer, generated(name, torch.tensor(target), len(tokenizer))


def solved(name):
    """A trajectory of a grid of 81 cells."""
    cells = torch.tensor([(3 * row + row // 3 + column) % 9 + 1 for row in range(9) for column in range(9)])
    return generated(name, cells, 10)


def counted(trajectory, row, last_step):
    """Corrections in the first steps: neighbours that differ in the list of tokens that a position was filled with."""
    number = 0
    for position in range(trajectory.canvas.shape[2]):
        fills = [
            trajectory.canvas[step, row, position].item()
            for step in range(last_step)
            if trajectory.filled[step, row, position]
        ]
        number += sum(a != b for a, b in zip(fills, fills[1:], strict=False))
    return number


def plain(texts):
    """What a page or a terminal shows of tokens, without the marks for white space."""
    return re.sub("[↵→]", "", texts).replace("␣", " ")


class ScriptReader(HTMLParser):
    """Collects the elements of a page and the text of each script."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts[-1] += data if not data.isspace() else ""


def test_a_correction_is_a_remasked_position_filled_with_another_token():
    canvas = torch.tensor([[5, 6, 0], [0, 6, 0], [7, 6, 0], [7, 0, 8], [0, 6, 9], [7, 6, 9]])[:, None]
    filled = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]])[:, None].bool()
    # Position 2 is remasked and filled in the same step, as in a loop.
    remasked = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]])[:, None].bool()
    corrections = Trajectory(canvas, filled, remasked).corrections()
    assert corrections.nonzero().tolist() == [[2, 0, 0], [4, 0, 2]]


@pytest.mark.parametrize("name", SETTINGS)
def test_corrections_are_those_counted_one_by_one(name):
    trajectory = solved(name)
    number = trajectory.corrections().sum((0, 2)).tolist()
    assert number == [counted(trajectory, row, len(trajectory.canvas)) for row in range(2)]
    assert all(number) or name == "none"


def test_tokens_that_a_loop_removed_before_the_forward_have_no_quality():
    trajectory = solved("loop")
    unread = trajectory.quality.isnan()
    assert unread.sum(-1)[:, 0].tolist() == [0] * 7 + [4] * 5 + [0] * 5
    assert (trajectory.remasked & ~unread).any() and not (unread & ~trajectory.remasked).any()


def word_piece():
    vocab = {token: i for i, token in enumerate(["[MASK]", "[UNK]", "un", "##mask", "##ing", "the", ",", "tokens"])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]"), "unmasking the tokens"


def sentence_piece():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=["[MASK]"], show_progress=False)
    tokenizer.train_from_iterator(["unmasking the tokens"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]"), "unmasking the tokens"


def sudoku():
    return SudokuTokenizer(), "53.\n67."


@pytest.mark.parametrize(
    "make", [lambda: (byte_level_bpe(), TEXT.replace("🙂", "")), word_piece, sentence_piece, sudoku]
)
def test_tokens_keep_the_spaces_between_them(make):
    tokenizer, text = make()
    canvas = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])[None, None]
    nothing = torch.zeros_like(canvas, dtype=torch.bool)
    shown = Trajectory(canvas, nothing, nothing).to_text(tokenizer, steps=[1])
    # The decoder's own text, where one has no more than the spaces that the tokenizer puts before the first word.
    assert shown.split("\n", 3)[3].removesuffix("\n").lstrip() == text.rstrip("\n")


def test_parts_of_a_character_show_as_bytes_and_controls_as_escapes():
    tokenizer = byte_level_bpe()
    canvas = torch.tensor(tokenizer("🙂\x1b[2J\x00")["input_ids"])[None, None]
    nothing = torch.zeros_like(canvas, dtype=torch.bool)
    text = Trajectory(canvas, nothing, nothing).to_text(tokenizer, steps=[0], color=False)
    assert text.splitlines()[-1] == r"\xf0\x9f\x99\x82\x1b[2J\x00"


@pytest.mark.parametrize("name", SETTINGS)
def test_text_shows_every_canvas_and_count(name):
    trajectory, digits = solved(name), ".123456789"
    for row in range(2):
        text = re.sub("\x1b\\[[0-9;]*m", "", trajectory.to_text(SudokuTokenizer(), row=row, line_length=9))
        frames = re.split(r"step (\d+) of (\d+): (\d+) filled, (\d+) remasked, (\d+) corrections so far\n", text)[1:]
        frames = list(zip(*[iter(frames)] * 6, strict=True))
        assert len(frames) == len(trajectory.canvas) + 1
        for step, (*counts, shown) in enumerate(frames[1:]):
            filled, remasked = trajectory.filled[step, row], trajectory.remasked[step, row]
            corrections = counted(trajectory, row, step + 1)
            assert [int(count) for count in counts] == [
                step + 1,
                len(trajectory.canvas),
                filled.sum(),
                remasked.sum(),
                corrections,
            ]
            # A token remasked in this step is still shown, struck.
            canvas = trajectory.canvas[step, row].where(~remasked | filled, trajectory.canvas[step - 1, row])
            expected = "".join(digits[token] for token in canvas.tolist()).replace(".", "░")
            assert "".join(shown.strip().splitlines()[-9:]) == expected


def test_text_without_color_has_marks_and_no_escapes():
    canvas = torch.tensor([[[1, 5, 0]], [[1, 0, 6]], [[1, 7, 6]]])
    filled = torch.tensor([[[0, 1, 0]], [[0, 0, 1]], [[0, 1, 0]]]).bool()
    remasked = torch.tensor([[[0, 0, 0]], [[0, 1, 0]], [[0, 0, 0]]]).bool()
    text = Trajectory(canvas, filled, remasked, canvas / 10).to_text(SudokuTokenizer(), color=False)
    assert text.split("\n\n")[1:] == [
        "step 0 of 3: 0 filled, 0 remasked, 0 corrections so far\n1░░",
        "step 1 of 3: 1 filled, 0 remasked, 0 corrections so far\n1{+5+}░",
        "step 2 of 3: 1 filled, 1 remasked, 0 corrections so far\n1[-5-]{+6+}",
        "step 3 of 3: 1 filled, 0 remasked, 1 corrections so far\ncorrected: '5' to '7'\n1{+7+}6\n",
    ]
    assert "\n1 {+7 +}6 \n" in Trajectory(canvas, filled, remasked).to_text(color=False)


def test_a_page_is_one_file_that_no_token_can_break(tmp_path):
    tokenizer, trajectory = written("prism")
    trajectory.to_html(tmp_path / "page.html", tokenizer)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    reader = ScriptReader(page)
    texts = json.loads(reader.scripts[0])["texts"].values()
    assert {"</script>", "<!--", "<eos>"} <= set(texts)
    assert page.count("</script>") == len(reader.scripts) == 2
    assert not [tag for tag, attributes in reader.tags if tag == "link" or {"src", "href"} & set(attributes)]
    assert "http" not in page and "@import" not in page and "url(" not in page


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"row": 2}, "rows 0 to 1"), ({"row": -1}, "row=-1"), ({"line_length": 0}, "at least 1, got 0")],
)
def test_impossible_settings_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        solved("none").to_html(tmp_path / "page.html", SudokuTokenizer(), **settings)
    with pytest.raises(ValueError, match=r"\[99\]; the trajectory has steps 0 to 8"):
        solved("none").to_text(SudokuTokenizer(), steps=[8, 99])


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (the extra `dev`)")
    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens the page of a trajectory without a network, in the style of a phone or a desktop; errors fail the test."""
    contexts, errors, requests = [], [], []

    def open_page(trajectory, tokenizer, width=1000, color_scheme="light", **kwargs):
        trajectory.to_html(tmp_path / "page.html", tokenizer, **kwargs)
        context = browser.new_context(
            viewport={"width": width, "height": 700}, color_scheme=color_scheme, offline=True, has_touch=width < 500
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(error))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield open_page
    assert not errors
    assert requests == [(tmp_path / "page.html").as_uri()] * len(contexts)
    for context in contexts:
        context.close()


# Each token on the page: position, text, classes, whether it is struck, and what stands above it (struck, value).
READ_TOKENS = """() => [...document.querySelectorAll("#canvas .token")].map(token => [
  Number(token.dataset.position), token.textContent, [...token.classList], token.querySelector("s") !== null,
  token.closest("ruby")?.querySelector("rt s")?.textContent ?? null,
  token.closest("ruby")?.querySelector("rt .value")?.textContent ?? null])"""
# The canvas with its line breaks, without what stands above the tokens.
READ_CANVAS = """() => {
  const canvas = document.getElementById("canvas").cloneNode(true);
  canvas.querySelectorAll("rt").forEach(rt => rt.remove());
  return canvas.textContent;
}"""
READ_COUNTS = """() => ["number", "last", "num-filled", "num-remasked", "num-corrections", "all-corrections"].map(
  id => Number(document.getElementById(id).textContent))"""


def shade(trajectory, step, row, position, judged):
    """The fifth in which a quality stands among those of the `judged` positions (L,), counted one by one."""
    if trajectory.quality is None or trajectory.quality[step, row, position].isnan():
        return "unread"
    values = trajectory.quality[step, row]
    others = [value for value, read in zip(values.tolist(), judged.tolist(), strict=True) if read and value == value]
    own = values[position].item()
    lower, equal = sum(other < own for other in others), sum(other == own for other in others)
    return f"q{int(5 * (lower + equal / 2) / len(others))}"


def judged_at(trajectory, step, row):
    """(L,): what stood on the canvas at the beginning of the step and was not given."""
    if step == 0:
        return torch.zeros_like(trajectory.filled[0, row])
    return (trajectory.canvas[step - 1, row] != MASK) & trajectory.filled[:, row].any(0)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_page_agrees_with_the_trajectory_at_every_step(open_page, name):
    trajectory, row = solved(name), 1
    page = open_page(trajectory, SudokuTokenizer(), row=row, line_length=9)
    num_steps, prompt = len(trajectory.canvas), ~trajectory.filled.any(0)[row]
    assert page.locator("#scale").is_visible() == (trajectory.quality is not None)
    all_corrections = counted(trajectory, row, num_steps)
    assert page.evaluate(READ_COUNTS) == [0, num_steps, 0, 0, 0, all_corrections]
    tokens = [5 if given else MASK for given in prompt.tolist()]
    assert [kind == ["token", "prompt"] for _, _, kind, *_ in page.evaluate(READ_TOKENS)] == prompt.tolist()

    lasting = {}  # what a position held before its last correction
    for step in range(num_steps):
        page.keyboard.press("ArrowRight")
        filled, remasked = trajectory.filled[step, row], trajectory.remasked[step, row]
        assert page.evaluate(READ_COUNTS) == [
            step + 1,
            num_steps,
            filled.sum(),
            remasked.sum(),
            counted(trajectory, row, step + 1),
            all_corrections,
        ]
        shown = page.evaluate(READ_TOKENS)
        assert [position for position, *_ in shown] == list(range(81))
        previous, tokens = tokens, trajectory.canvas[step, row].tolist()
        judged = judged_at(trajectory, step, row)
        for position, text, kind, struck, above, value in shown:
            assert value is None or (remasked[position] and not filled[position])
            token = tokens[position]
            fills = [
                trajectory.canvas[s, row, position].item()
                for s in range(step + 1)
                if trajectory.filled[s, row, position]
            ]
            changed = [a for a, b in zip(fills, fills[1:], strict=False) if a != b]
            lasting[position] = str(changed[-1]) if changed else None
            if prompt[position]:
                assert (text, kind, above) == (str(token), ["token", "prompt"], None)
            elif filled[position]:
                corrected = ["corrected"] * (len(fills) > 1 and fills[-2] != fills[-1])
                assert (text, struck, above) == (str(token), False, lasting[position])
                assert kind == ["token", "filled", *corrected]
            elif remasked[position]:
                assert token == MASK and (text, struck, kind[:2]) == (
                    str(previous[position]),
                    True,
                    ["token", "remasked"],
                )
                assert kind[2:] == [shade(trajectory, step, row, position, judged)] and above is None
                if kind[2] == "unread":
                    assert value is None
                else:
                    assert float(value) == pytest.approx(trajectory.quality[step, row, position].item(), abs=0.005)
            elif token == MASK:
                assert (text, kind, above) == ("·", ["token", "mask"], str(fills[-1]) if fills else None)
            else:
                assert (text, struck, above) == (str(token), False, lasting[position])
                assert kind == ["token", shade(trajectory, step, row, position, judged)]
    assert [len(line) for line in page.evaluate(READ_CANVAS).split("\n")] == [9] * 9


def test_slider_keys_and_buttons_move_between_the_first_and_the_last_step(open_page):
    trajectory = solved("prism")
    page = open_page(trajectory, SudokuTokenizer(), line_length=9)
    slider, number = page.locator("#step"), page.locator("#number")

    def at(step):
        return slider.input_value() == number.text_content() == str(step)

    page.keyboard.press("ArrowLeft")
    assert at(0) and page.locator("#back").is_disabled()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert at(1)
    slider.focus()
    page.keyboard.press("ArrowRight")  # once, although the slider knows the key too
    assert at(2)
    slider.fill("17")
    assert at(17)
    page.locator("#forward").click()
    assert at(18)
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert at(40) and page.locator("#forward").is_disabled()
    page.keyboard.press("ArrowRight")
    assert at(40)


def test_text_keeps_its_lines_and_a_tap_tells_the_history(open_page):
    tokenizer, trajectory = written("prism")
    page = open_page(trajectory, tokenizer, width=390)
    page.locator("#step").fill(str(len(trajectory.canvas)))
    final = trajectory.canvas[-1, 0]
    # The bytes behind the page's text: those of the tokenizer's own text of the whole sequence.
    shown = page.evaluate(READ_CANVAS)
    assert shown.startswith("def f(n):\n\tif") and "return n↵\n" in shown  # white space has marks where it is generated
    shown = plain(shown).encode()
    shown = re.sub(rb"\\x([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), shown)
    assert shown.decode(errors="replace") == tokenizer.decode(final)
    assert page.locator("#canvas .special").count() == (final[:, None] == torch.tensor([1, 2, 3])).sum()

    step, position = trajectory.corrections()[:, 0].nonzero()[-1].tolist()
    page.locator(f'#canvas [data-position="{position}"]').first.tap()
    told = page.locator("#history").text_content()
    assert f"Position {position}:" in told and f"at step {step + 1}" in told and "remasked at step" in told
    for s in trajectory.remasked[:, 0, position].nonzero().flatten().tolist():
        quality, judged = trajectory.quality[s, 0], judged_at(trajectory, s, 0)
        lower = (quality[judged] < quality[position]).sum()
        own = round(quality[position].item(), 4)
        assert f"remasked at step {s + 1} (quality {own:g}, {lower} of {judged.sum()} lower)" in told
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_lowest_qualities_of_a_step_are_orange_however_high_they_are(open_page):
    quality = torch.tensor([0.9991, 0.9993, 0.9995, 0.9997, 0.9999])
    canvas = torch.arange(1, 6).repeat(3, 1, 1)
    canvas[1, 0, 0] = MASK
    filled, remasked = torch.zeros_like(canvas).bool(), canvas == MASK
    filled[0] = filled[2, 0, 0] = True
    page = open_page(Trajectory(canvas, filled, remasked, quality.expand(3, 1, 5)), SudokuTokenizer())
    page.locator("#step").fill("2")
    assert page.locator("#canvas .q0 s").text_content() == "1"
    assert page.locator("#canvas .value").text_content() == ".999"
    assert [kind[-1] for _, _, kind, *_ in page.evaluate(READ_TOKENS)] == ["q0", "q1", "q2", "q3", "q4"]
    # Where all are equal none is low.
    page = open_page(Trajectory(canvas, filled, remasked, torch.full((3, 1, 5), 0.5)), SudokuTokenizer())
    page.locator("#step").fill("2")
    assert {kind[-1] for _, _, kind, *_ in page.evaluate(READ_TOKENS)} == {"q2"}


def test_it_plays_to_the_end_pauses_and_begins_again(open_page):
    page = open_page(solved("prism"), SudokuTokenizer(), line_length=9)
    play, number = page.locator("#play"), page.locator("#number")
    page.clock.install(time=0)
    page.clock.pause_at(10_000)
    play.click()
    page.clock.run_for(1000)
    assert number.text_content() == "2" and play.get_attribute("aria-label") == "Pause"
    play.click()
    page.clock.run_for(5000)
    assert number.text_content() == "2" and play.get_attribute("aria-label") == "Play"
    page.keyboard.press("ArrowRight")
    page.locator("#canvas").click()
    page.keyboard.press(" ")
    page.clock.run_for(60_000)
    assert number.text_content() == "40" and play.get_attribute("aria-label") == "Play"
    play.click()
    page.clock.run_for(500)
    assert number.text_content() == "1"
    page.keyboard.press("ArrowRight")  # whoever moves, pauses
    page.clock.run_for(5000)
    assert number.text_content() == "2"


def test_each_correction_is_gone_to_and_told(open_page):
    trajectory = solved("loop")
    page = open_page(trajectory, SudokuTokenizer(), line_length=9)
    corrections = trajectory.corrections()[:, 0]
    for step in corrections.any(1).nonzero().flatten().tolist():
        page.keyboard.press("n")
        assert page.locator("#number").text_content() == str(step + 1)
        assert page.locator("#canvas .corrected").count() == corrections[step].sum()
        position = corrections[step].nonzero()[0].item()
        assert page.locator("#history").text_content().startswith(f"Position {position}: ")
    assert page.locator("#next").is_disabled()


def test_all_rows_are_on_the_page_if_none_is_named(open_page):
    trajectory = solved("prism")
    page = open_page(trajectory, SudokuTokenizer(), row=None, line_length=9)
    page.locator("#step").fill("40")
    for row in (0, 1, 0):
        page.locator("#row").select_option(label=f"Row {row}")
        assert page.evaluate(READ_CANVAS).replace("\n", "") == "".join(map(str, trajectory.canvas[-1, row].tolist()))
        assert page.evaluate(READ_COUNTS)[-1] == counted(trajectory, row, 40)
    assert not open_page(trajectory, SudokuTokenizer(), row=1).locator("#row").is_visible()


def test_runs_of_newlines_take_one_empty_line(open_page):
    tokenizer = byte_level_bpe()
    ids = torch.tensor(tokenizer("a\n\n\nb\n\n\n\nc\nd\n\ne")["input_ids"])
    canvas, filled = ids[None, None], torch.zeros(1, 1, len(ids), dtype=torch.bool)
    filled[..., len(tokenizer("a\n\n\nb")["input_ids"]) :] = True
    page = open_page(Trajectory(canvas, filled, torch.zeros_like(filled)), tokenizer)
    page.locator("#step").fill("1")
    assert page.evaluate(READ_CANVAS) == "a\n\nb↵\n↵↵↵\nc↵\nd↵\n↵\ne"


def test_a_run_of_one_special_token_is_drawn_once(open_page):
    """As long as nothing is to be told of a token in it: here one of the tail is corrected in the last step."""
    tokenizer = byte_level_bpe()
    text, eos = tokenizer("ab")["input_ids"], tokenizer.eos_token_id
    ids = torch.tensor([*[eos] * 5, *text, *[eos] * 20, MASK])
    canvas = ids.repeat(4, 1, 1)
    canvas[0, 0, 20:], canvas[2:, 0, -1] = MASK, eos
    canvas[1, 0, 22], canvas[2, 0, 22] = text[0], MASK
    filled, remasked = torch.zeros_like(canvas).bool(), torch.zeros_like(canvas).bool()
    filled[0, 0, 5:20] = filled[1, 0, 20:-1] = filled[2, 0, -1] = filled[3, 0, 22] = remasked[2, 0, 22] = True
    page = open_page(Trajectory(canvas, filled, remasked), tokenizer, width=390)
    name, first = tokenizer.decode([eos]), 5 + len(text)
    shown = {
        1: [(0, f"{name} × 5"), (first, f"{name} × {20 - first}")],
        2: [(0, f"{name} × 5"), (first, f"{name} × {20 - first}"), (20, name), (21, name), (23, f"{name} × 4")],
    }
    for step, expected in shown.items():
        page.locator("#step").fill(str(step))
        drawn = page.locator("#canvas .special").evaluate_all(
            "nodes => nodes.map(node => [Number(node.dataset.position), node.textContent])"
        )
        assert [tuple(each) for each in drawn] == expected
    assert page.locator("#canvas .filled").count() == 4
    page.keyboard.press("n")
    assert page.locator("#canvas .corrected").get_attribute("data-position") == "22"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_slider_and_legend_stay_in_sight_on_a_phone(open_page):
    trajectory = solved("prism")
    page = open_page(trajectory, SudokuTokenizer(), width=390, line_length=1)  # a long page
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight / 2)")
    for part in ("#step", "#scale", "#legend .mask", "#next", "#history"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 700
    assert page.locator("header").bounding_box()["height"] < 300
    page.locator("#next").click()
    box, header = (page.locator(part).first.bounding_box() for part in ("#canvas .corrected", "header"))
    assert header["height"] <= box["y"] <= 700


# The contrast ratio of WCAG 2 between each text and what is behind it.
CONTRASTS = """() => {
  const rgb = color => color.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
  const background = element => getComputedStyle(element).backgroundColor;
  return [...document.querySelectorAll("#legend *, #canvas *, #counts *, #history, h1")].map(element => {
    let behind = element;
    while (behind !== document.body && rgb(background(behind))[3] === 0) behind = behind.parentElement;
    const both = [getComputedStyle(element).color, background(behind)].map(color => luminance(rgb(color)));
    return (Math.max(...both) + .05) / (Math.min(...both) + .05);
  });
}"""


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag_aa(open_page, color_scheme):
    page = open_page(solved("prism"), SudokuTokenizer(), color_scheme=color_scheme, width=390, line_length=9)
    page.locator("#step").fill("25")
    assert page.locator("#canvas .corrected").count() and page.locator("#canvas .value").count()
    assert min(page.evaluate(CONTRASTS)) >= 4.5
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
