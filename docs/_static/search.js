/* The search page: any of the words, best section first, with an excerpt. search_sections.js beside it has the text
 * (docs/_ext/search_words.py); stems, stop words, names of the reference and what the page shows meanwhile are Sphinx'.
 */
"use strict";

{
  const MOST = 20; // hits
  // how often a word counts that stands in the page's title or address: at the top, in other sections; or in a heading
  const [TOP, BELOW, HEADING] = [5, 2, 4];
  const [WIDTH, LEAD] = [220, 90]; // letters of an excerpt, and at most of it before the first word that was asked for

  const stemmer = new Stemmer();
  const stems = new Map();
  const stem = (word) => {
    if (!stems.has(word)) stems.set(word, stemmer.stemWord(word));
    return stems.get(word);
  };

  const phrases = Object.keys(SITE.same).sort((a, b) => b.length - a.length);
  const same = `(?<![\\p{L}\\p{N}_])(?:${phrases.join("|")})(?![\\p{L}\\p{N}_])`;
  const phrase = new RegExp(same, "gu");
  const phraseOrWord = new RegExp(`${same}|[\\p{L}\\p{N}_]+`, "giu");

  /** The stems of a text, in order: of ignore_index also those of its parts. */
  const words = (text) =>
    splitQuery(text.toLowerCase().replace(phrase, (found) => SITE.same[found]))
      .flatMap((word) => (word.includes("_") ? [word, ...word.split("_")] : [word]))
      .filter((word) => word && !stopwords.has(word))
      .map(stem);

  const counted = (counts, text, weight) => {
    for (const word of words(text)) counts.set(word, (counts.get(word) ?? 0) + weight);
    return counts;
  };

  let sections = null;

  const read = () => {
    sections = Object.entries(SITE.pages).flatMap(([name, parts]) => {
      const title = parts[0][1];
      const about = words(`${title} ${name}`);
      const times = Object.entries(SITE.counts).find(([start]) => name.startsWith(start))?.[1] ?? 1;
      return parts.map(([anchor, heading, text, code], place) => {
        const counts = counted(new Map(about.map((word) => [word, place ? BELOW : TOP])), `${text} ${code}`, 1);
        if (place) counted(counts, heading, HEADING);
        else text ||= parts[1]?.[2] ?? ""; // for the excerpt
        const length = [...counts.values()].reduce((a, b) => a + b, 0);
        const called = place ? [] : words(title);
        return { name, title, anchor, heading, text, code, counts, length, times, called };
      });
    });
  };

  /** Okapi's BM25: rare words count more, repetitions less and less, and in a short section more. */
  const rank = (query) => {
    const asked = [...new Set(words(query))];
    const mean = sections.reduce((sum, section) => sum + section.length, 0) / sections.length;
    const best = new Map(); // page → its best section
    const rarity = asked.map((word) => {
      const having = sections.filter(({ counts }) => counts.has(word)).length;
      return Math.log(1 + (sections.length - having + 0.5) / (having + 0.5));
    });
    for (const section of sections) {
      let score = 0;
      asked.forEach((word, i) => {
        const count = section.counts.get(word) ?? 0;
        score += (rarity[i] * count * 2.2) / (count + 1.2 * (0.5 + (0.5 * section.length) / mean));
      });
      const { called } = section; // who asks for softmax wants the page of that name
      if (called.length) score *= 1 + called.filter((word) => asked.includes(word)).length / called.length;
      if (asked.length > 1 || section.times < 1) score *= section.times; // one word is no question
      if (score > (best.get(section.name)?.score ?? 0)) best.set(section.name, { ...section, score });
    }
    return [asked, [...best.values()].sort((a, b) => b.score - a.score)];
  };

  /** The part of a text with most of the words asked for, these marked; of code and tables if the text has none. */
  const excerpt = ({ heading, text, code }, asked) => {
    const placesIn = (any) =>
      [...any.matchAll(phraseOrWord)].filter(([found]) => words(found).some((word) => asked.includes(word)));
    let places = placesIn(text);
    if (!places.length && placesIn(code).length) [text, places] = [code, placesIn(code)];
    if (!text) [text, places] = [heading, placesIn(heading)];
    let first = 0;
    let most = 0;
    for (const { index } of places) {
      const within = places.filter((place) => place.index >= index && place.index < index + WIDTH - LEAD);
      const kinds = new Set(within.flatMap(([word]) => words(word))).size;
      if (kinds > most) [first, most] = [index, kinds];
    }
    // from where a sentence begins, or else a word
    const before = text.slice(Math.max(0, first - LEAD), first);
    const sentence = first < LEAD ? 0 : before.search(/(?<=[.?!] )/u);
    const start = first - before.length + (sentence < 0 ? before.indexOf(" ") + 1 : sentence);
    const end = start + WIDTH >= text.length ? text.length : text.lastIndexOf(" ", start + WIDTH);
    const shown = document.createElement("p");
    shown.classList.add("context");
    let at = start;
    for (const place of places.filter(({ index }) => index >= start && index < end)) {
      shown.append(text.slice(at, place.index));
      const marked = shown.appendChild(document.createElement("span"));
      marked.classList.add("highlighted");
      marked.textContent = place[0];
      at = place.index + place[0].length;
    }
    shown.append(text.slice(at, end));
    if (start > 0) shown.prepend("… ");
    if (end < text.length) shown.append(" …");
    return shown;
  };

  const show = (name, anchor, title) => {
    const item = Search.output.appendChild(document.createElement("li"));
    const link = item.appendChild(document.createElement("a"));
    link.href = `${document.documentElement.dataset.content_root}${name}${DOCUMENTATION_OPTIONS.LINK_SUFFIX}${anchor}`;
    link.textContent = title;
    return item;
  };

  Search.query = (query) => {
    if (sections === null) read();
    const [asked, hits] = rank(query);
    const showPages = () => {
      for (const hit of hits.slice(0, MOST)) {
        const { name, title, anchor, heading } = hit;
        const item = show(name, anchor && `#${anchor}`, anchor ? `${title} › ${heading}` : title);
        item.appendChild(excerpt(hit, asked));
      }
    };
    const named = Search._parseQuery(query)[4];
    const objects = [...named].flatMap((word) => Search.performObjectSearch(word, named));
    objects.sort((a, b) => b[4] - a[4]).splice(MOST);
    const first = /^\S+[._]\S+$/.test(query.trim()); // refloss.testing.check: the reference before the pages
    if (!first) showPages();
    for (const [name, title, anchor, description] of objects) show(name, anchor, title).append(` (${description})`);
    if (first) showPages();
    _finishSearch(hits.length + objects.length);
    if (hits.length > MOST) Search.status.innerText = `${hits.length} pages have one of the words. The best ${MOST}:`;
  };
}
