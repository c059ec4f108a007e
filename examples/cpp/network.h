// A network that compiled.save(...) wrote, run through TVM's C++ interface. TVM is all it needs.

#ifndef HASTE_NETWORK_H_
#define HASTE_NETWORK_H_

#include <sched.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace haste {

namespace ffi = tvm::ffi;
using Json = ffi::json::Object;
using Tensors = std::vector<ffi::Tensor>;

// Memory as the kernels want it: on the CPU, each tensor from a cache line on.
struct AlignedAllocator {
  void AllocData(DLTensor* tensor) {
    tensor->data = std::aligned_alloc(64, (ffi::GetDataSize(*tensor) / 64 + 1) * 64);
    if (!tensor->data) TVM_FFI_THROW(RuntimeError) << "there is no memory left";
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

// A new tensor that holds nothing yet; `dtype` by NumPy's name.
inline ffi::Tensor Empty(const ffi::Shape& shape, const std::string& dtype) {
  return ffi::Tensor::FromNDAlloc(AlignedAllocator(), shape, ffi::StringToDLDataType(dtype), {kDLCPU, 0});
}

inline size_t Bytes(const ffi::Tensor& tensor) { return ffi::GetDataSize(*tensor.GetDLTensorPtr()); }

// One file of the artifact, whole.
inline std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) TVM_FFI_THROW(RuntimeError) << path << " can't be read";
  return {std::istreambuf_iterator<char>(file), {}};
}

template <typename T>
T Get(const Json& object, const char* key) {
  return object[ffi::String(key)].template cast<T>();
}

inline ffi::Shape Integers(const ffi::json::Array& numbers) {
  std::vector<int64_t> values;
  for (const ffi::Any& number : numbers) values.push_back(number.cast<int64_t>());
  return ffi::Shape(values);
}

// The weights and tables, by name. Safetensors is a length of 8 bytes, that much JSON, and the data.
inline ffi::Map<ffi::String, ffi::Tensor> ReadSafetensors(const std::string& path) {
  const std::string file = ReadFile(path);
  uint64_t header;
  if (file.size() < sizeof(header)) TVM_FFI_THROW(RuntimeError) << path << " is cut short";
  std::memcpy(&header, file.data(), sizeof(header));
  const size_t start = sizeof(header) + header;
  ffi::Map<ffi::String, ffi::Tensor> tensors;
  for (const auto& [name, value] : ffi::json::Parse(file.substr(sizeof(header), header)).cast<Json>()) {
    if (name.cast<ffi::String>() == "__metadata__") continue;
    const Json entry = value.cast<Json>();
    // "F32", "I32", "BOOL", "U8": NumPy's names, but for the first letter.
    std::string dtype = Get<ffi::String>(entry, "dtype");
    const std::string bits = dtype.substr(1);
    dtype = dtype == "BOOL" ? "bool" : (dtype[0] == 'F' ? "float" : dtype[0] == 'I' ? "int" : "uint") + bits;
    const auto range = Integers(Get<ffi::json::Array>(entry, "data_offsets"));
    ffi::Tensor tensor = Empty(Integers(Get<ffi::json::Array>(entry, "shape")), dtype);
    if (range[1] - range[0] != static_cast<int64_t>(Bytes(tensor)) || start + range[1] > file.size()) {
      TVM_FFI_THROW(RuntimeError) << path << " is damaged";
    }
    std::memcpy(tensor.data_ptr(), file.data() + start + range[0], Bytes(tensor));
    tensors.Set(name.cast<ffi::String>(), tensor);
  }
  return tensors;
}

// A tensor of -1, 0 and 1 from 2 bits an element: plus 1, four in a byte, the first in the lowest bits.
inline ffi::Tensor Ternary(const ffi::Tensor& packed, const ffi::Shape& shape) {
  ffi::Tensor tensor = Empty(shape, "int8");
  const size_t count = Bytes(tensor);
  if (Bytes(packed) != (count + 3) / 4) TVM_FFI_THROW(RuntimeError) << "ternary weights are damaged";
  const auto* codes = static_cast<const uint8_t*>(packed.data_ptr());
  for (size_t i = 0; i < count; ++i) {
    static_cast<int8_t*>(tensor.data_ptr())[i] = static_cast<int8_t>((codes[i / 4] >> (2 * (i % 4)) & 3) - 1);
  }
  return tensor;
}

// A saved network for one of its input signatures. Calls take turns: give every thread a Network of its own.
class Network {
 public:
  // `folder` holds the unzipped artifact; `signature` counts from 0, in the manifest's order. The calling thread's pool
  // gets as many threads as the network was compiled for.
  explicit Network(const std::string& folder, int signature = 0) {
    const Json manifest = ffi::json::Parse(ReadFile(folder + "/manifest.json")).cast<Json>();
    const Json part = Get<ffi::json::Array>(manifest, "specializations")[signature].cast<Json>();
    if (part.count(ffi::String("fallbacks")) > 0 && !Get<ffi::json::Array>(part, "fallbacks").empty()) {
      TVM_FFI_THROW(RuntimeError) << "a part of the network is run by PyTorch, which isn't here";
    }
    UseThreads(Get<int64_t>(manifest, "threads"));

    const ffi::Module library = ffi::Module::LoadFromFile(folder + "/" + Get<std::string>(part, "library"));
    machine_ = library->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
    constexpr int kPooledAllocator = 2;
    machine_.value()->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    main_ = machine_.value()->GetFunction("main").value();

    for (const ffi::Any& input : Get<ffi::json::Array>(part, "inputs")) {
      const Json entry = input.cast<Json>();
      inputs.push_back(Empty(Integers(Get<ffi::json::Array>(entry, "shape")), Get<std::string>(entry, "dtype")));
    }
    for (const ffi::Any& record : Get<ffi::json::Array>(part, "records")) {
      settings.push_back(Settings(Get<ffi::json::Array>(record.cast<Json>(), "values")));
    }
    auto weights = ReadSafetensors(folder + "/weights.safetensors");
    if (manifest.count(ffi::String("ternary")) > 0) {
      for (const auto& [name, shape] : Get<Json>(manifest, "ternary")) {
        const auto known = name.cast<ffi::String>();
        weights.Set(known, Ternary(weights[known], Integers(shape.cast<ffi::json::Array>())));
      }
    }
    for (const ffi::Any& name : Get<ffi::json::Array>(part, "constants")) {
      constants_.push_back(weights[name.cast<ffi::String>()]);
    }
    outputs_ = Get<int64_t>(part, "outputs");
  }

  // Runs the network on what `inputs` hold. Returns its outputs; one may be an input, or a weight, itself.
  Tensors operator()() const {
    std::vector<ffi::AnyView> arguments;
    for (const Tensors* tensors : {&inputs, &settings, &constants_}) {
      arguments.insert(arguments.end(), tensors->begin(), tensors->end());
    }
    ffi::Any result;
    main_.value().CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result);
    // After the outputs come the records' statistics.
    const auto all = result.cast<ffi::Array<ffi::Tensor>>();
    return Tensors(all.begin(), all.begin() + outputs_);
  }

  // To be filled before a call: of the shapes and types that the network was saved for.
  Tensors inputs;

  // Of each record, the values of its method's parameters; HASTE's are hyperplanes, tolerance and flat tolerance.
  // Other values steer the next call.
  Tensors settings;

 private:
  static ffi::Tensor Settings(const ffi::json::Array& stored) {
    const auto size = static_cast<int64_t>(stored.size());
    ffi::Tensor tensor = Empty(ffi::Shape({size}), "float32");
    for (int64_t i = 0; i < size; ++i) {
      // JSON has no infinity: null is "no tolerance".
      const auto number = stored[i].cast<ffi::Optional<double>>();
      const float value = number.has_value() ? *number : std::numeric_limits<float>::infinity();
      static_cast<float*>(tensor.data_ptr())[i] = value;
    }
    return tensor;
  }

  static void UseThreads(int64_t count) {
    // By itself TVM takes half of the processors and pins its threads.
    constexpr int kShareAllCores = -3;
    cpu_set_t allowed;
    sched_getaffinity(0, sizeof(allowed), &allowed);
    std::vector<ffi::String> cores;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &allowed)) cores.push_back(std::to_string(core));
    }
    for (size_t i = 0; static_cast<int64_t>(cores.size()) < count; ++i) cores.push_back(ffi::String(cores[i]));
    const ffi::Array<ffi::String> names(cores.begin(), cores.end());
    ffi::Function::GetGlobalRequired("runtime.config_threadpool")(kShareAllCores, count, names);
  }

  ffi::Optional<ffi::Module> machine_;
  ffi::Optional<ffi::Function> main_;
  Tensors constants_;
  int64_t outputs_;
};

}  // namespace haste

#endif  // HASTE_NETWORK_H_
