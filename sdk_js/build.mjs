// Builds tracker/static/{t.js,stub.js}; --check fails when what is there is not what the source gives, or a budget is broken.
import { build } from "esbuild";
import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { gzipSync } from "node:zlib";

const out = new URL("../tracker/static/", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8"));
const check = process.argv.includes("--check");
// Bytes after gzip -9.
const files = [
  { source: "stub.ts", name: "stub.js", budget: 350 },
  { source: "index.ts", name: "t.js", budget: 6 * 1024 },
];

let failed = false;
for (const { source, name, budget } of files) {
  const { outputFiles } = await build({
    entryPoints: [new URL(`src/${source}`, import.meta.url).pathname],
    bundle: name === "t.js",
    minify: true,
    write: false,
    target: "es2018",
    charset: "utf8",
    legalComments: "none",
    outdir: ".",
    define: { VERSION: JSON.stringify(version) },
    banner: name === "t.js" ? { js: "/* Built from sdk_js/src by npm run build. Apache-2.0 */" } : {},
  });
  const text = outputFiles[0].text;
  const size = gzipSync(text, { level: 9 }).length;
  const path = new URL(name, out);
  console.log(`${name.padEnd(8)} ${String(text.length).padStart(6)} B, gzip -9 ${String(size).padStart(5)} B of ${budget} B`);
  if (size > budget) {
    console.error(`${name} is over its budget`);
    failed = true;
  }
  if (check) {
    let there = "";
    try {
      there = readFileSync(path, "utf8");
    } catch {}
    if (there !== text) {
      console.error(`tracker/static/${name} is not what sdk_js gives: npm run build`);
      failed = true;
    }
  } else {
    mkdirSync(out, { recursive: true });
    writeFileSync(path, text);
  }
}
process.exitCode = failed ? 1 : 0;
