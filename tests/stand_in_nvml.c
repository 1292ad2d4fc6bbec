/* Stands in for libnvidia-ml.so.1 in tests: answers what the file `gpu` in $STAND_IN_NVML holds ("key value" on a line),
   and NOT_SUPPORTED for what is not in it. It refuses what the documented interface refuses: calls before nvmlInit_v2,
   handles that it did not give, wrong enumerators, too little room; and it has no function that sets anything.
   Processes stand in files `pid.N`, as tests/stand_in_cuda.c writes them, each with its bytes. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS, UNINITIALIZED, INVALID, NOT_SUPPORTED, NOT_FOUND = 6, TOO_SMALL = 7, NO_FUNCTION = 13 };
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu, compute; } Process;
typedef struct { unsigned long long reference, violation; } Violation;

static int begun, chip, part;

static const char *place(void) { return getenv("STAND_IN_NVML"); }

static int asked(const char *key, char *value, size_t size) {
  char path[4096], line[256];
  snprintf(path, sizeof path, "%s/gpu", place());
  FILE *file = fopen(path, "r");
  int found = 0;
  while (file && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    size_t length = strlen(key);
    if (!strncmp(line, key, length) && line[length] == ' ') {
      snprintf(value, size, "%s", line + length + 1);
      found = 1;
    }
  }
  if (file) fclose(file);
  return found;
}

static int is_card(void *handle) { return handle == &chip || handle == &part; }

static int number(void *handle, const char *key, unsigned long long *found) {
  char text[64];
  if (!begun) return UNINITIALIZED;
  if (handle != &chip || !found) return INVALID;
  if (!asked(key, text, sizeof text)) return NOT_SUPPORTED;
  *found = strtoull(text, 0, 0);
  return SUCCESS;
}

static int small(void *handle, const char *key, unsigned *found) {
  unsigned long long wide = 0;
  int said = number(handle, key, &wide);
  if (!said) *found = (unsigned)wide;
  return said;
}

static int told(const char *key, char *text, unsigned length) {
  char found[96];
  if (!begun) return UNINITIALIZED;
  if (!asked(key, found, sizeof found)) return NOT_SUPPORTED;
  if (length <= strlen(found)) return TOO_SMALL;
  strcpy(text, found);
  return SUCCESS;
}

const char *nvmlErrorString(int code) {
  return code == NOT_SUPPORTED ? "Not Supported" : code == NOT_FOUND ? "Not Found" : code == INVALID ? "Invalid Argument"
       : code == UNINITIALIZED ? "Uninitialized" : code == 9 ? "Driver Not Loaded" : "Unknown Error";
}
int nvmlInit_v2(void) { return place() ? !(begun = 1) : 9; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { return told("driver", text, length); }
int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
  return handle == &chip ? told("name", text, length) : INVALID;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **found) {
  char known[96];
  if (!begun) return UNINITIALIZED;
  if (strncmp(uuid, "GPU-", 4) && strncmp(uuid, "MIG-", 4)) return INVALID;
  if (!asked("uuid", known, sizeof known) || strcmp(uuid, known)) return NOT_FOUND;
  *found = uuid[0] == 'M' ? (void *)&part : (void *)&chip;
  return SUCCESS;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **found) {
  *found = &chip;
  return handle == &part ? SUCCESS : INVALID;
}

static int processes(Process *room, unsigned *count) {
  struct dirent *entry;
  DIR *folder = opendir(place());
  unsigned seen = 0;
  while (folder && (entry = readdir(folder))) {
    char path[4096];
    unsigned pid;
    Process one = {0, 0, ~0u, ~0u};
    if (sscanf(entry->d_name, "pid.%u", &pid) != 1) continue;
    snprintf(path, sizeof path, "/proc/%u", pid);
    if (access(path, F_OK)) continue; /* it has ended */
    snprintf(path, sizeof path, "%s/pid.%u", place(), pid);
    FILE *file = fopen(path, "r");
    one.pid = pid;
    if (!file || fscanf(file, "%llu", &one.used) != 1) one.used = ~0ull;
    if (file) fclose(file);
    if (seen < *count && room) room[seen] = one;
    seen++;
  }
  if (folder) closedir(folder);
  int fits = seen <= *count && (room || !seen);
  *count = seen;
  return fits ? SUCCESS : TOO_SMALL;
}

int nvmlDeviceGetMemoryInfo(void *handle, Memory *found) {
  char text[64];
  if (!begun) return UNINITIALIZED;
  if (!is_card(handle)) return INVALID;
  if (!asked("used", text, sizeof text)) return NOT_SUPPORTED;
  Process room[64];
  unsigned count = 64;
  found->total = 80ull << 30;
  found->used = strtoull(text, 0, 0);
  if (processes(room, &count) == SUCCESS)
    for (unsigned i = 0; i < count; i++) found->used += room[i].used == ~0ull ? 300000000 : room[i].used;
  found->free = found->total - found->used;
  return SUCCESS;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, Process *room) {
  char text[8];
  if (!begun) return UNINITIALIZED;
  if (!is_card(handle) || !count || (*count && !room)) return INVALID;
  if (asked("hides-processes", text, sizeof text)) { *count = 0; return SUCCESS; }
  return processes(room, count);
}
int nvmlDeviceGetClockInfo(void *handle, int type, unsigned *found) {
  return type == 1 ? small(handle, "sm", found) : type == 2 ? small(handle, "mem", found) : INVALID;
}
int nvmlDeviceGetMaxClockInfo(void *handle, int type, unsigned *found) {
  return type == 1 ? small(handle, "sm-max", found) : type == 2 ? small(handle, "mem-max", found) : INVALID;
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned *found) { return small(handle, "milliwatts", found); }
int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned *found) { return small(handle, "milliwatts-limit", found); }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *found) {
  return sensor ? INVALID : small(handle, "degrees", found);
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *found) {
  return number(handle, "millijoules", found);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *found) {
  return number(handle, "reasons", found); /* the name before driver 535, which newer ones still have */
}
int nvmlDeviceGetViolationStatus(void *handle, int policy, Violation *found) {
  char key[32];
  if (policy < 0 || policy > 11) return INVALID;
  snprintf(key, sizeof key, "violation.%d", policy);
  found->reference = 1;
  return number(handle, key, &found->violation);
}
