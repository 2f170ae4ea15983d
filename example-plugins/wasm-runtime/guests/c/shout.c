// A guest in C, against the small ABI: `shout` gives a text back in capitals and with more emphasis, `fail` fails.
// No library: scripts/build-guests.sh says how it is compiled.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("oxide"), import_name(name)))

IMPORT("fail") void oxide_fail(const char *text, u32 length);
IMPORT("log") void oxide_log(u32 level, const char *text, u32 length);

enum { NO_SUCH_METHOD = -1, FAILED = -2, INFO = 3 };

extern char __heap_base;

// The smallest allocator that frees: blocks are stacked, and what lies on top can be taken off.
static u32 top;

EXPORT("alloc") u32 alloc(u32 length) {
    if (!top) top = (u32)&__heap_base;
    u32 block = (top + 15) & ~15u;
    if (length > ~block) __builtin_trap();
    u32 end = block + length;
    u32 pages = (u32)((end + 65535ull) >> 16), have = __builtin_wasm_memory_size(0);
    if (pages > have && __builtin_wasm_memory_grow(0, pages - have) == (u32)-1) __builtin_trap();
    top = end;
    return block;
}

EXPORT("free") void release(u32 block, u32 length) {
    if (block + length == top) top = block;
}

static i64 answer(u32 pointer, u32 length) { return (i64)((u64)pointer << 32 | length); }

static int is(const char *text, u32 length, const char *expected) {
    u32 at = 0;
    while (at < length && expected[at] && text[at] == expected[at]) at++;
    return at == length && !expected[at];
}

EXPORT("oxide_metadata") i64 metadata(void) {
    static const char json[] = "{\"id\":\"shout\",\"name\":\"Shout\",\"version\":\"0.1.0\",\"description\":\"Says it louder\"}";
    return answer((u32)json, sizeof json - 1);
}

EXPORT("oxide_start") i64 start(void) {
    static const char text[] = "ready to shout";
    oxide_log(INFO, text, sizeof text - 1);
    return 0;
}

EXPORT("oxide_invoke") i64 invoke(const char *method, u32 method_length, const char *input, u32 length) {
    if (is(method, method_length, "fail")) {
        oxide_fail(input, length);
        return FAILED;
    }
    if (!is(method, method_length, "shout")) return NO_SUCH_METHOD;
    // An answer of its own, which the host frees.
    char *output = (char *)alloc(length + 3);
    for (u32 at = 0; at < length; at++) {
        char letter = input[at];
        output[at] = letter >= 'a' && letter <= 'z' ? letter - 32 : letter;
    }
    for (u32 at = length; at < length + 3; at++) output[at] = '!';
    return answer((u32)output, length + 3);
}
