// What the real llama.cpp makes of GGUF files, by node-llama-cpp: for tests and benchmarks.
//
// node llama_cpp.mjs FOLDER JOBS.json FOUND.json
//
// FOLDER has node_modules/node-llama-cpp. JOBS is a list, and FOUND has for each of it what was
// found: of {file} the architecture; with "prompt" and "count" the greedy tokens behind it and the
// logits at each of its places; with "texts" their tokens; with "windows" the sum of the negative
// log-likelihoods of all tokens but the first of each. The cache is in float32, as transformers
// has it; llama.cpp's own default, float16, may turn a greedy choice that is nearly even.
import {readFileSync, writeFileSync} from "node:fs";
import {resolve} from "node:path";
import {pathToFileURL} from "node:url";

const [, , folder, jobsFile, foundFile] = process.argv;
const entry = resolve(folder, "node_modules/node-llama-cpp/dist/index.js");
const {getLlama} = await import(pathToFileURL(entry));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});

const found = [];
for (const job of JSON.parse(readFileSync(jobsFile, "utf8"))) found.push(await run(job));
writeFileSync(foundFile, JSON.stringify(found));
process.exit(0);

async function run(job) {
    const model = await llama.loadModel({modelPath: job.file});
    const result = {architecture: model.fileInfo.metadata.general.architecture};
    const longest = Math.max(...(job.windows ?? []).map((ids) => ids.length), 0);
    const context = await model.createContext({
        contextSize: Math.max(longest, 128),
        threads: 1,
        flashAttention: false,
        experimentalKvCacheKeyType: "F32",
        experimentalKvCacheValueType: "F32",
    });
    const sequence = context.getSequence();
    if (job.prompt) {
        const asked = job.prompt.map((id) => [id, {generateNext: {logits: true}}]);
        const places = await sequence.controlledEvaluate(asked);
        result.logits = places.map(({next}) => row(next.logits));
        await sequence.clearHistory();
        result.tokens = await greedy(sequence, job.prompt, job.count);
    }
    if (job.texts) result.texts = job.texts.map((text) => model.tokenize(text));
    if (job.windows) {
        result.loss = 0;
        for (const ids of job.windows) {
            await sequence.clearHistory();
            result.loss += await loss(sequence, ids);
        }
    }
    await context.dispose();
    await model.dispose();
    return result;
}

function row(logits) {
    const values = [];
    for (const [id, value] of logits) values[id] = value;
    return values;
}

async function greedy(sequence, prompt, count) {
    const tokens = [];
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        tokens.push(token);
        if (tokens.length >= count) break;
    }
    return tokens;
}

async function loss(sequence, ids) {
    let sum = 0;
    const asked = ids.slice(0, -1).map((id) => [id, {generateNext: {logits: true}}]);
    await sequence.controlledEvaluate(asked, {onTokenResult(place, {next}) {
        let largest = -Infinity, weight = 0;
        for (const value of next.logits.values()) largest = Math.max(largest, value);
        for (const value of next.logits.values()) weight += Math.exp(value - largest);
        sum += Math.log(weight) + largest - next.logits.get(ids[place + 1]);
        next.logits = undefined;
    }});
    return sum;
}
