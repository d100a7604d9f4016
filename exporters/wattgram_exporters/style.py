"""How the page looks: light and dark, from a phone to a screen on a wall, on paper, and when it stands still."""

from __future__ import annotations

REFRESH_SECONDS = 5
# Without a script the page cannot ask whether the daemon lives, but an animation that nobody restarts runs to its end.
STALE_SECONDS = 3 * REFRESH_SECONDS

LIGHT = {
    "ink": "#17211b",
    "soft": "#55635b",
    "paper": "#f5f6f3",
    "card": "#ffffff",
    "line": "#dde2dc",
    "good": "#17713f",
    "goodbg": "#e3f3e8",
    "warn": "#8a5000",
    "warnbg": "#fff1d6",
    "bad": "#a3231b",
    "badbg": "#fde7e4",
    "tag": "#e8eeea",
    "gpu": "#1f8a4c",
    "cpu": "#2b6cb0",
    "dram": "#8a5bb5",
    "rest": "#8a8f8c",
}
DARK = {
    "ink": "#e6ece8",
    "soft": "#a3b0a9",
    "paper": "#0f1411",
    "card": "#171e1a",
    "line": "#2b362f",
    "good": "#6fd09b",
    "goodbg": "#15301f",
    "warn": "#f2bd63",
    "warnbg": "#33270f",
    "bad": "#ff9d92",
    "badbg": "#3a1714",
    "tag": "#243029",
    "gpu": "#4fbf82",
    "cpu": "#6ea8e6",
    "dram": "#b794e0",
    "rest": "#8b948f",
}


def _colours(palette: dict[str, str]) -> str:
    return ";".join(f"--{name}:{colour}" for name, colour in palette.items())


STYLE = f"""
:root{{color-scheme:light dark;{_colours(LIGHT)}}}
@media(prefers-color-scheme:dark){{:root{{{_colours(DARK)}}}}}
@media print{{:root{{color-scheme:light;{_colours(LIGHT)};--paper:#fff}}}}
@keyframes turn{{from{{transform:scaleX(0)}}to{{transform:scaleX(1)}}}}
@keyframes appear{{to{{visibility:visible}}}}
@keyframes fade{{to{{opacity:.35;filter:grayscale(1)}}}}
.turn{{position:fixed;inset:0 0 auto;height:3px;background:var(--good);transform-origin:0 0;
animation:turn {REFRESH_SECONDS}s steps({REFRESH_SECONDS}) both}}
.stale{{visibility:hidden;position:fixed;z-index:1;inset:0 0 auto;margin:0;padding:.7rem 1rem;text-align:center;
font-weight:600;background:var(--bad);color:var(--paper);animation:appear 1ms linear {STALE_SECONDS}s forwards}}
main{{animation:fade 1ms linear {STALE_SECONDS}s forwards}}
"""
STYLE += """
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
font:1rem/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;font-variant-numeric:tabular-nums}
main{max-width:80rem;margin:0 auto;padding:1.1rem 1rem 3rem}
header{display:flex;flex-wrap:wrap;gap:.1rem 1rem;align-items:baseline;margin-bottom:.75rem}
time{white-space:nowrap}h1{font-size:1.25rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .4rem}p{margin:.35rem 0}
.asof{margin-left:auto;font-size:1.35rem;font-weight:700}
.asof small{font-weight:400}.soft,small{color:var(--soft)}small{font-size:.82rem}
.verdict{border-radius:.6rem;padding:.5rem .9rem;margin:0 0 .75rem;background:var(--goodbg);color:var(--good);
font-weight:600}.verdict.warn{background:var(--warnbg);color:var(--warn)}
.verdict.bad{background:var(--badbg);color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.75rem}
.card,.sheet{background:var(--card);border:1px solid var(--line);border-radius:.6rem}
.card{padding:.8rem 1rem;margin:0}.card dt{color:var(--soft);font-size:.85rem}.card dd{margin:0}
.card .big{font-size:clamp(1.7rem,3.3vw,6rem);line-height:1.15;font-weight:700}
.big small{font-size:.5em;font-weight:500}.card .note{color:var(--soft);font-size:.88rem;overflow-wrap:anywhere}
.parts{display:flex;height:.45rem;border-radius:.3rem;overflow:hidden;gap:1px;margin:.35rem 0 .3rem}
.parts i,.key i{background:var(--rest)}.gpu{background:var(--gpu)!important}.cpu{background:var(--cpu)!important}
.dram{background:var(--dram)!important}
.key{display:inline-block;white-space:nowrap;margin-right:.7em}
.key i{display:inline-block;width:.6em;height:.6em;border-radius:50%}
.sheet{overflow-x:auto}table{border-collapse:collapse;width:100%}
caption{text-align:left;color:var(--soft);font-size:.85rem;padding:.55rem .75rem .1rem}
th,td{padding:.36rem .75rem;text-align:left;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:.85rem;white-space:nowrap}
tbody th{font-weight:600}tfoot th,tfoot td{border-top:2px solid var(--line);font-weight:600}
.n{text-align:right;white-space:nowrap}td small,th small{display:block;font-weight:400;overflow-wrap:anywhere}
.bar{display:block;height:.3rem;min-width:6rem;margin:.2rem 0 .1rem;border-radius:.2rem;background:var(--tag)}
.bar i{display:block;height:100%;border-radius:inherit;background:var(--gpu);width:var(--part)}
.tag{background:var(--tag);border-radius:1rem;padding:.05rem .6rem;font-size:.8rem;white-space:nowrap}
.tag.good{background:var(--goodbg);color:var(--good)}.tag.warn{background:var(--warnbg);color:var(--warn)}
.tag.bad{background:var(--badbg);color:var(--bad)}
.list{list-style:none;margin:0;padding:.2rem .9rem}.list li{padding:.4rem 0;overflow-wrap:anywhere}
.list li+li{border-top:1px solid var(--line)}.list small{display:block}
.doing{white-space:nowrap}
code{font-size:.9em;overflow-wrap:anywhere;user-select:all}
code{background:var(--tag);border-radius:.3rem;padding:.1rem .4rem}
a{color:var(--good)}nav ul{list-style:none;margin:0;padding:0}
nav li{display:inline-block;margin-right:1.4rem}td.long{min-width:12rem;overflow-wrap:anywhere}
@media(max-width:60rem){.cards{grid-template-columns:repeat(2,minmax(0,1fr))}
.card .big{font-size:clamp(1.45rem,6vw,2.2rem)}}
@media(min-width:100rem){html{font-size:118%}main{max-width:none;padding:1.2rem 2rem}
.columns{display:grid;grid-template-columns:minmax(0,13fr) minmax(0,8fr);gap:0 1.5rem;align-items:start}
.columns th,.columns td{padding-left:.5rem;padding-right:.5rem}
thead th,.columns>div+div .n{white-space:normal}
.device th small{max-width:15rem;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}}
@media(min-width:150rem){html{font-size:150%}}
@media(min-width:100rem){.many .device th,.many .device td{padding-top:.1rem;padding-bottom:.1rem}
.many .device small{display:inline-block;vertical-align:bottom;margin-left:.6em}.many .device .bar{margin:0}}
@media(min-width:150rem){html.many{font-size:118%}}
"""
# On a phone each row becomes a card of its own, and what stood in the head of a column stands before the figure.
STYLE += """
@media(max-width:48rem){main{padding:.9rem .75rem 2rem}.card{padding:.6rem .75rem}time,.key{white-space:normal}
.asof{font-size:1.05rem}
table,tbody,tfoot,tr,caption{display:block}thead{display:none}
tr{display:grid;grid-template-columns:1fr 1fr;gap:0 .75rem;padding:.5rem .75rem;
border-top:1px solid var(--line)}
th,td,.n,tfoot th,tfoot td{border:0;padding:.08rem 0;text-align:left;white-space:normal;min-width:0}
tbody th,td.long{grid-column:1/-1;overflow-wrap:anywhere}
[data-label]::before{content:attr(data-label) " ";color:var(--soft);font-size:.82rem;font-weight:400}
td:empty{display:none}tr.device th,tr.device .power{grid-column:auto}tr.device .power{text-align:right}
tr.device .how{grid-column:1/-1}tr.device .power::before{content:none}}
@media print{.turn,.stale,nav{display:none}main,.stale{animation:none}.card,.sheet,.list li,tr{break-inside:avoid}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
@media(prefers-reduced-motion:reduce){.turn{animation:none;display:none}}
@media(forced-colors:active){.bar,.parts{border:1px solid}.bar i,.parts i{background:CanvasText!important}}
"""
