"use strict";
// The answers browser. Every text comes from a model, a user or a judge, so it is only ever set as textContent.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const field = (name) => document.getElementById("f-" + name);
  const list = document.getElementById("answers-list");
  const count = document.getElementById("answers-count");
  const warning = document.getElementById("answers-warning");
  const [previous, next] = ["previous", "next"].map((name) => document.getElementById("page-" + name));
  const haystacks = new Map();
  let page = 0;
  let found = [];

  function make(tag, className, text, children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    if (children) element.append(...children);
    return element;
  }

  // A text is a string, or [its beginning, its length] where it was cut.
  const beginning = (text) => (Array.isArray(text) ? text[0] : text);
  const length = (text) => (Array.isArray(text) ? text[1] : text.length);
  const grouped = (number) => number.toLocaleString("en");
  const shown = (value) => (Number.isInteger(value) ? String(value) : value.toFixed(3));

  function textBlock(text, label) {
    const block = make("pre", "text", beginning(text));
    block.dir = "auto";
    block.tabIndex = 0; // a long one scrolls, also with the keyboard
    block.setAttribute("role", "group");
    block.setAttribute("aria-label", label);
    if (!beginning(text)) block.replaceChildren(make("em", "", "(empty)"));
    if (!Array.isArray(text)) return [block];
    const note = `Cut here: ${grouped(length(text))} characters in all; the whole text is in the run folder.`;
    return [block, make("p", "note", note)];
  }

  // What a search reads of an item, in lower case; made once, when it is first needed.
  function haystack(item) {
    if (!haystacks.has(item)) {
      const answers = Object.values(item.answers).flatMap((answer) => answer.turns);
      const replies = Object.values(item.replies).flatMap((sides) => Object.values(sides).flat());
      const texts = [item.id, ...item.turns, ...item.references, ...answers, ...replies.map((reply) => reply.text)];
      haystacks.set(item, texts.map(beginning).join("\n").toLowerCase());
    }
    return haystacks.get(item);
  }

  function chosen() {
    const number = (name) => (field(name).value.trim() === "" ? null : Number(field(name).value));
    const names = ["benchmark", "category", "language", "side", "metric", "state", "sort"];
    const values = Object.fromEntries(names.map((name) => [name, field(name).value]));
    const words = field("search").value.toLowerCase().split(/\s+/u).filter(Boolean);
    return { ...values, words, min: number("min"), max: number("max") };
  }

  const sidesOf = (item, want) => Object.keys(item.answers).filter((side) => !want.side || side === want.side);

  function scoreFits([value], want) {
    if (want.state === "unscored") return value === null;
    if (value === null) return want.state !== "scored" && want.min === null && want.max === null;
    return (want.min === null || value >= want.min) && (want.max === null || value <= want.max);
  }

  function fits(item, want) {
    if (want.benchmark && item.benchmark !== want.benchmark) return false;
    if (want.category && item.category !== want.category) return false;
    if (want.language && item.language !== want.language) return false;
    const sides = sidesOf(item, want);
    if (!sides.length) return false;
    if (want.state || want.min !== null || want.max !== null) {
      const metrics = want.metric ? [want.metric] : Object.keys(item.scores);
      const scores = metrics.flatMap((metric) => sides.map((side) => item.scores[metric]?.[side]).filter(Boolean));
      if (!scores.some((score) => scoreFits(score, want))) return false;
    } else if (want.metric && !item.scores[want.metric]) return false;
    return want.words.every((word) => haystack(item).includes(word));
  }

  // What items are sorted by: a score, or its change from the base; null where there is none, which comes last.
  function sortValue(item, want) {
    const metric = want.metric || Object.keys(item.scores)[0];
    const scores = item.scores[metric] || {};
    const side = want.side || Object.keys(scores).find((name) => name !== "base") || "base";
    const value = scores[side]?.[0] ?? null;
    if (!want.sort.startsWith("change")) return value;
    const base = scores.base?.[0] ?? null;
    return value === null || base === null ? null : value - base;
  }

  function sorted(items, want) {
    if (!want.sort) return items;
    const sign = want.sort.endsWith("down") ? -1 : 1;
    const keyed = items.map((item) => [item, sortValue(item, want)]);
    keyed.sort(([, a], [, b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (a - b);
    });
    return keyed.map(([item]) => item);
  }

  // Under the last turn the scores of the question; with several turns, those of each under it.
  function scoreList(item, side, turn) {
    const line = (value, name, reason) =>
      make("li", value === null ? "unscored" : "", `${name}: ${value === null ? `unscored${reason}` : shown(value)}`);
    const scores = Object.entries(item.scores).filter(([, sides]) => sides[side]);
    const lines = scores.flatMap(([metric, sides]) => {
      const [value, reason, turns] = sides[side];
      const ofTurn = turns.length > 1 ? [line(turns[turn], `${metric}, turn ${turn + 1}`, "")] : [];
      const last = turn === item.turns.length - 1;
      return last ? [...ofTurn, line(value, ofTurn.length ? `${metric}, mean` : metric, ` (${reason})`)] : ofTurn;
    });
    return make("ul", "scores", undefined, lines);
  }

  function folded(summary, contents) {
    const details = make("details", "", undefined, [make("summary", "", summary)]);
    details.addEventListener("toggle", () => {
      if (details.childElementCount === 1) details.append(...contents());
    });
    return details;
  }

  function answerOf(item, side, turn) {
    const answer = item.answers[side];
    const title = `${side}${item.turns.length > 1 ? `, turn ${turn + 1}` : ""}`;
    const box = make("section", "answer", undefined, [make("h4", "", title)]);
    const text = answer.turns[turn];
    if (answer.finish[turn] === "failed") {
      box.append(make("p", "unscored", `No answer: ${answer.reason || "it failed"}`));
    } else if (data.collapsed.includes(item.benchmark)) {
      const summary = `Answer of ${side}, ${grouped(length(text))} characters; it may do harm`;
      box.append(folded(summary, () => textBlock(text, title)));
    } else {
      box.append(...textBlock(text, title));
    }
    if (answer.finish[turn] === "length") box.append(make("p", "note", "Ended at the limit of tokens."));
    box.append(scoreList(item, side, turn), ...repliesOn(item, side, turn + 1));
    return box;
  }

  function repliesOn(item, side, turn) {
    const all = Object.entries(item.replies).flatMap(([judge, sides]) =>
      (sides[side] || []).filter((reply) => reply.turn === turn).map((reply) => [judge, reply]));
    return all.map(([judge, reply]) => {
      const again = reply.repeat ? `, repeat ${reply.repeat}` : "";
      const place = { ab: ", this answer as A", ba: ", this answer as B" }[reply.order] || "";
      const title = `Judge ${judge}${again}${place}`;
      const lost = () => [make("p", "unscored", `No reply: ${reply.reason}`)];
      return folded(title, () => (reply.text === null ? lost() : textBlock(reply.text, title)));
    });
  }

  function turnOf(item, turn, want) {
    const many = item.turns.length > 1 ? ` ${turn + 1}` : "";
    const parts = [make("h4", "", `Question${many}`), ...textBlock(item.turns[turn], `Question${many}`)];
    if (item.references[turn]) {
      parts.push(folded(`Reference${many}`, () => textBlock(item.references[turn], `Reference${many}`)));
    }
    const answers = sidesOf(item, want).map((side) => answerOf(item, side, turn));
    return [...parts, make("div", "side-by-side", undefined, answers)];
  }

  function article(item, want) {
    const about = [item.category, item.language].filter(Boolean).join(" · ");
    const title = make("h3", "", `${item.benchmark} ${item.id}`, about ? [make("span", "about", about)] : []);
    const turns = item.turns.flatMap((_, turn) => turnOf(item, turn, want));
    return make("article", "", undefined, [title, ...turns]);
  }

  function draw() {
    const want = chosen();
    const pages = Math.max(1, Math.ceil(found.length / data.page_size));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * data.page_size;
    const part = found.slice(first, first + data.page_size);
    list.replaceChildren(...part.map((item) => article(item, want)));
    count.textContent = found.length
      ? `${grouped(first + 1)} to ${grouped(first + part.length)} of ${grouped(found.length)} questions`
      : "No question fits. Widen the filters or search for other words.";
    warning.hidden = !part.some((item) => data.collapsed.includes(item.benchmark));
    previous.disabled = page === 0;
    next.disabled = page >= pages - 1;
  }

  function refresh() {
    const want = chosen();
    found = sorted(data.items.filter((item) => fits(item, want)), want);
    page = 0;
    draw();
  }

  // The options of a filter: what occurs under the chosen benchmark, and the former choice where it still does.
  function offer(name, all, values) {
    const select = field(name);
    const former = select.value;
    const option = (value, text) => {
      const element = make("option", "", text);
      element.value = value;
      return element;
    };
    select.replaceChildren(option("", all), ...values.map((value) => option(value, value)));
    select.value = values.includes(former) ? former : "";
  }

  function offerAll() {
    const benchmark = field("benchmark").value;
    const items = data.items.filter((item) => !benchmark || item.benchmark === benchmark);
    const distinct = (of) => [...new Set(items.flatMap(of))].filter(Boolean);
    offer("category", "all categories", distinct((item) => item.category));
    offer("language", "all languages", distinct((item) => item.language));
    offer("side", "all sides", distinct((item) => Object.keys(item.answers)));
    offer("metric", "any metric", distinct((item) => Object.keys(item.scores)));
  }

  function turnTo(step) {
    page += step;
    draw();
    document.getElementById("answers").scrollIntoView();
    count.focus({ preventScroll: true });
  }

  let waiting;
  function soon() {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, 150);
  }

  offer("benchmark", "all benchmarks", [...new Set(data.items.map((item) => item.benchmark))]);
  offerAll();
  field("benchmark").addEventListener("change", () => { offerAll(); refresh(); });
  for (const name of ["category", "language", "side", "metric", "state", "sort"]) field(name).addEventListener("change", refresh);
  for (const name of ["search", "min", "max"]) field(name).addEventListener("input", soon);
  previous.addEventListener("click", () => turnTo(-1));
  next.addEventListener("click", () => turnTo(1));
  document.getElementById("f-reset").addEventListener("click", () => {
    for (const name of ["search", "benchmark", "state", "min", "max", "sort"]) field(name).value = "";
    for (const name of ["category", "language", "side", "metric"]) field(name).value = "";
    offerAll();
    refresh();
  });
  refresh();
})();
