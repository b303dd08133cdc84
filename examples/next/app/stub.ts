// The contents of tracker/static/stub.js, which `tracker snippet` prints in the second tag.
export const stub: string = process.env.NEXT_PUBLIC_TRACKER_STUB ?? "";
