"""How the page looks: light and dark, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fff; --text: #1b1f24; --quiet: #57606a; --line: #d0d7de; --box: #f6f8fa;
  --good: #075a30; --bad: #8f3000; --due: #0072b2; --got: #c44e00;
  --e0: #edf5fa; --e1: #bfdcef; --e2: #fde3c4; --e3: #f4b277; --e4: #b04a00;
  --on0: #1b1f24; --on1: #10222f; --on2: #3b2200; --on3: #2e1800; --on4: #fff;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --text: #e3e6ea; --quiet: #9aa4af; --line: #3a424b; --box: #1d2228;
    --good: #58c98b; --bad: #ff9a5c; --due: #5ab4ec; --got: #ff9a5c;
    --e0: #182630; --e1: #20475f; --e2: #4a3213; --e3: #8a4d10; --e4: #f39a55;
    --on0: #cfd6dd; --on1: #e6f1f8; --on2: #fbe6cc; --on3: #fff3e4; --on4: #1d1000;
  }
}
* { box-sizing: border-box; }
html { background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif; text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; overflow-wrap: anywhere; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: .2rem 0 .6rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
article + article { border-top: 3px solid var(--line); margin-top: 3rem; }
p, ul { margin: .4rem 0; max-width: 50rem; }
ul { padding-left: 1.3rem; }
li { margin: .25rem 0; }
a { color: var(--due); }
code, pre { font: .875em/1.45 ui-monospace, monospace; }
pre { background: var(--box); border: 1px solid var(--line); padding: .7rem; overflow-x: auto; overflow-wrap: normal; }
.quiet { color: var(--quiet); }
.verdict { border-left: .4rem solid; padding: .5rem .8rem; background: var(--box); font-weight: 600; max-width: none; }
.good .verdict, .passed { border-color: var(--good); color: var(--good); }
.bad .verdict, .failed { border-color: var(--bad); color: var(--bad); }
.wide { overflow-x: auto; max-width: 100%; margin: .6rem 0; }
table { border-collapse: collapse; overflow-wrap: normal; font-size: .875rem; }
th, td { padding: .2rem .55rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { white-space: nowrap; vertical-align: bottom; }
tbody th { font-weight: 500; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.wrong > th, .cross { color: var(--bad); font-weight: 600; }
.map td { text-align: center; white-space: nowrap; border: 1px solid var(--ground);
  font-variant-numeric: tabular-nums; }
.map tbody th { position: sticky; left: 0; background: var(--ground); max-width: 45vw; overflow: hidden;
  text-overflow: ellipsis; }
.map .group th { position: static; max-width: none; padding-top: .6rem; }
.e0 { background: var(--e0); color: var(--on0); }
.e1 { background: var(--e1); color: var(--on1); }
.e2 { background: var(--e2); color: var(--on2); font-weight: 600; }
.e3 { background: var(--e3); color: var(--on3); font-weight: 600; }
.e4 { background: var(--e4); color: var(--on4); font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: .3rem .5rem; padding: 0; list-style: none; font-size: .875rem; }
.key li { padding: .05rem .5rem; margin: 0; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--due); }
figure { margin: .6rem 0; }
figcaption { font-size: .875rem; color: var(--quiet); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 9.5rem), 1fr)); gap: 1rem; }
svg { display: block; width: 100%; height: auto; }
svg.scatter { max-width: 34rem; }
svg.arrows { max-width: 15rem; }
svg text { font: 12px system-ui, sans-serif; fill: var(--text); }
svg text.quiet { fill: var(--quiet); paint-order: stroke; stroke: var(--ground); stroke-width: 4; }
svg path { fill: none; stroke-width: 1; }
.axis { stroke: var(--quiet); }
.grid { stroke: var(--line); }
svg .allowed { stroke: var(--text); stroke-dasharray: 5 3; }
svg .dots { stroke: var(--due); stroke-width: 5; stroke-linecap: round; stroke-opacity: .65; }
svg .crosses { stroke: var(--got); stroke-width: 1.6; }
.due path { stroke: var(--due); stroke-width: 6; stroke-linecap: round; }
.got path { stroke: var(--got); stroke-width: 2; }
.got .shaft { stroke-dasharray: 6 4; }
circle.due { fill: var(--due); }
circle.got { fill: var(--got); }
.key svg { display: inline-block; width: 3rem; height: .8rem; vertical-align: middle; }
@media print {
  html { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; }
  .wide, pre { overflow: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .map tbody th { position: static; }
  table { font-size: 7.5pt; }
  th, td { padding: .1rem .3rem; }
  figure, tr, svg { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  details > summary { list-style: none; color: inherit; font-weight: 600; }
  details::details-content { display: block; content-visibility: visible; block-size: auto; opacity: 1; }
  details:not([open]) > :not(summary) { display: block; }
}
"""
