/* A library beside the plugin, which counts its calls. */
int beside_calls(void) {
    static int calls;
    return __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
}
